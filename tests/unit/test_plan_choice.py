"""What make_plan picks, and what it says about the other candidates."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from edgeinfer.backends.mlx.facts import FACTS
from edgeinfer.catalog import LayerKv
from edgeinfer.decode.drafters import drafter_facts
from edgeinfer.device import EngineSpeed, named
from edgeinfer.errors import BackendError, ModelNotFoundError, NoPlanError, UsageError
from edgeinfer.plan import Plan, Probe, Request, explain, make_plan
from edgeinfer.plan.fit import expected_tokens_per_s
from edgeinfer.plan.report import details
from edgeinfer.types import KvType
from tests.unit.plan_things import GGUF, MLX, artifact, catalog, device, model, with_shape

ANY = Request()
SMALL = model("small", 1, artifact(0.5, "Q4_K_M"), artifact(0.9, "Q8_0"))
LARGE = model("large", 2, artifact(4, "Q4_K_M"), artifact(7, "Q8_0"))


def pick(request: Request = ANY, free_gb: float = 8, gb_per_s: float = 200) -> tuple[str, str]:
    plan = make_plan(device(free_gb, gb_per_s), catalog(SMALL, LARGE), [GGUF], request)
    return plan.model.name, plan.artifact.tier


def test_rank_comes_before_tier() -> None:
    assert pick(free_gb=6) == ("large", "Q4_K_M")  # though small would fit at Q8_0


def test_the_best_tier_that_fits_is_taken() -> None:
    assert pick(free_gb=6) == ("large", "Q4_K_M")
    assert pick(free_gb=12) == ("large", "Q8_0")
    assert pick(free_gb=2) == ("small", "Q8_0")


def test_a_slow_model_is_passed_over_and_mentioned() -> None:
    plan = make_plan(device(12, gb_per_s=30), catalog(SMALL, LARGE), [GGUF], Request())
    assert (plan.model.name, plan.artifact.tier) == ("small", "Q8_0")
    assert any(line.startswith("larger but slower: Large Q4_K_M") for line in plan.reasons)
    assert pick(Request(min_tokens_per_s=4), free_gb=12, gb_per_s=30) == ("large", "Q4_K_M")


def test_prefer_weighs_speed_quality_and_context() -> None:
    # at 50 GB/s: large Q4_K_M 8.7 tokens/s, small Q8_0 37, small Q4_K_M 66
    assert pick(gb_per_s=50) == ("large", "Q4_K_M")
    assert pick(Request(prefer="speed"), gb_per_s=50) == ("small", "Q8_0")
    assert pick(Request(prefer="quality"), free_gb=12, gb_per_s=25) == ("large", "Q8_0")
    assert pick(free_gb=12, gb_per_s=25) == ("small", "Q8_0")


def test_of_two_backends_for_a_tier_the_faster_is_taken() -> None:
    both = model("both", 3, artifact(0.5, "Q4_0", "gguf"), artifact(0.5, "Q4_0", "mlx"))
    assert make_plan(device(), catalog(both), [GGUF, MLX], Request()).backend == "mlx"
    assert make_plan(device(), catalog(both), [GGUF, MLX], Request(backend="gguf")).backend == "gguf"


def test_threads_are_measured_unless_the_request_names_them() -> None:
    both = catalog(model("both", 3, artifact(0.5, "Q4_0", "gguf"), artifact(0.5, "Q4_0", "mlx")))
    assert make_plan(replace(device(), named=False), both, [GGUF], Request()).n_threads == 0
    assert make_plan(device(), both, [GGUF], Request(threads=2)).n_threads == 2
    n_cores = device().n_cores
    with pytest.raises(UsageError, match=f"from 1 to {n_cores}, the cores of the device; received {n_cores + 1}"):
        make_plan(device(), both, [GGUF], Request(threads=n_cores + 1))
    with pytest.raises(UsageError, match="the mlx backend chooses its own threads"):
        make_plan(device(), both, [GGUF, MLX], Request(threads=2))


def test_over_bytes_is_the_memory_missing_from_the_budget() -> None:
    plan = make_plan(device(6), catalog(SMALL, LARGE), [GGUF], Request(context=4096))
    (q8,) = [one for one in plan.rejected if (one.model, one.tier) == ("large", "Q8_0")]
    # 7.0 GB against 4.0 GB of the same shape in the same context
    assert q8.over_bytes == plan.estimate.total_bytes + 3_000_000_000 - plan.budget_bytes > 0


def test_a_named_model_is_taken_although_it_is_slow() -> None:
    plan = make_plan(device(12, gb_per_s=10), catalog(SMALL, LARGE), [GGUF], Request(model="Large"))
    assert (plan.model.name, plan.artifact.tier) == ("large", "Q4_K_M")
    assert any("slow" in line for line in plan.reasons)


def test_force_overrides_the_budget_and_says_so() -> None:
    small_device = device(2)
    with pytest.raises(NoPlanError, match=r"needs 2,\d+ MB more"):
        make_plan(small_device, catalog(LARGE), [GGUF], Request())
    plan = make_plan(small_device, catalog(LARGE), [GGUF], Request(force=True))
    assert plan.forced and plan.estimate.total_bytes > plan.budget_bytes
    assert plan.reasons[0].startswith("FORCED")


def test_force_changes_nothing_where_something_fits() -> None:
    plan = make_plan(device(6), catalog(SMALL, LARGE), [GGUF], Request(force=True))
    assert not plan.forced and plan.artifact.tier == "Q4_K_M"


def test_no_fit_lists_every_candidate() -> None:
    with pytest.raises(NoPlanError) as caught:
        make_plan(device(0.3), catalog(SMALL, LARGE), [GGUF], Request())
    listed = {(one["model"], one["tier"]) for one in caught.value.rejected}
    assert listed == {("small", "Q4_K_M"), ("small", "Q8_0"), ("large", "Q4_K_M"), ("large", "Q8_0")}
    assert all(isinstance(one["over_bytes"], int) and one["over_bytes"] > 0 for one in caught.value.rejected)


def test_where_nothing_is_fast_enough_the_best_speed_is_named() -> None:
    with pytest.raises(NoPlanError, match="nothing that fits decodes at 8 tokens/s") as caught:
        make_plan(device(12, gb_per_s=1), catalog(SMALL, LARGE), [GGUF], Request())
    assert caught.value.hint.startswith("--min-speed")


def test_unknown_names_are_refused_with_suggestions() -> None:
    with pytest.raises(ModelNotFoundError, match="no model named smal") as caught:
        make_plan(device(), catalog(SMALL, LARGE), [GGUF], Request(model="smal"))
    assert "small" in caught.value.hint
    with pytest.raises(UsageError, match="unknown backend"):
        make_plan(device(), catalog(SMALL), [GGUF], Request(backend="tpu"))
    with pytest.raises(UsageError, match="small has no files of tier Q2_K"):
        make_plan(device(), catalog(SMALL), [GGUF], Request(model="small", tier="Q2_K"))


def test_a_backend_that_cannot_run_is_refused_with_its_reason() -> None:
    gone = {"gguf": Probe(unavailable="not installed", hint="pip install it")}
    with pytest.raises(BackendError, match="not installed") as caught:
        make_plan(device(), catalog(SMALL), [GGUF], Request(), probes=gone)
    assert caught.value.hint == "pip install it"


def test_a_named_backend_that_cannot_run_is_an_error() -> None:
    gone = {"mlx": Probe(unavailable="no Metal GPU")}
    both = model("both", 3, artifact(0.5, "Q4_0", "gguf"), artifact(0.5, "Q4_0", "mlx"))
    with pytest.raises(BackendError, match="mlx cannot run: no Metal GPU"):
        make_plan(device(), catalog(both), [GGUF, MLX], Request(backend="mlx"), probes=gone)
    plan = make_plan(device(), catalog(both), [GGUF, MLX], Request(), probes=gone)
    assert plan.backend == "gguf" and plan.rejected[0].reason == "mlx cannot run: no Metal GPU"


def test_the_hint_names_a_shorter_context_only_where_that_helps() -> None:
    wide = catalog(model("wide", 1, artifact(0.5), shape=with_shape(kv=(LayerKv(40, 32, 128),))))
    with pytest.raises(NoPlanError) as caught:  # 2.9 GB of K/V at 8192, 0.7 GB at 2048
        make_plan(device(2), wide, [GGUF], Request(context=8192))
    assert caught.value.hint == "try --context 2048, or --force"
    with pytest.raises(NoPlanError) as caught:
        make_plan(device(2), catalog(LARGE), [GGUF], Request())
    assert caught.value.hint == "try a smaller model, or --force"


def test_a_model_beside_others_gets_the_memory_they_leave() -> None:
    def planned(others_bytes: int | None) -> Plan:
        request = Request(others_bytes=others_bytes)
        return make_plan(device(12), catalog(SMALL, LARGE), [GGUF], request)

    alone, first, second = planned(None), planned(0), planned(7_000_000_000)
    assert alone.window.slots > first.window.slots == 4096  # it leaves room for others, so its window does not grow
    assert (first.model.name, first.budget_bytes) == ("large", alone.budget_bytes)
    assert (second.model.name, second.budget_bytes) == ("small", alone.budget_bytes - 7_000_000_000)
    assert any("kept free and 7,000 MB for other models" in line for line in details(second))


def test_memory_is_reserved_for_the_draft_model() -> None:
    def planned(**more: object) -> Plan:
        request = Request(model="large", **more)  # type: ignore[arg-type]
        return make_plan(device(), catalog(SMALL, LARGE), [GGUF], request, drafters=drafter_facts())

    plain, plan = planned(), planned(draft_model="small")
    assert "draft" in plan.speculation.drafters
    assert plan.budget_bytes == plain.budget_bytes
    assert plan.draft is not None and plan.draft.artifact.tier == "Q8_0"
    assert plan.estimate.draft_bytes == 900_000_000 + plan.draft.estimate.kv_bytes
    assert plan.estimate.total_bytes <= plan.budget_bytes
    assert [(one.role, one.model.name, one.artifact.tier) for one in plan.files] == [
        ("weights", "large", "Q4_K_M"),
        ("draft model", "small", "Q8_0"),
    ]
    assert plan.reasons[-1].endswith("MB are set aside for the draft model small")
    off = planned(draft_model="small", speculation="off")
    assert (off.estimate.draft_bytes, off.draft) == (0, None)
    tier = planned(draft_model="small", draft_tier="q4_k_m")
    assert plan.estimate.draft_bytes - tier.estimate.draft_bytes == 400_000_000  # 0.5 GB in place of 0.9


def test_a_draft_model_leaves_less_memory_to_the_target() -> None:
    assert pick(Request(model="large"), free_gb=8.5) == ("large", "Q8_0")
    assert pick(Request(model="large", draft_model="small"), free_gb=8.5) == ("large", "Q4_K_M")


def test_the_draft_model_runs_on_the_backend_of_the_target() -> None:
    both = model("both", 3, artifact(0.5, "Q4_0", "gguf"), artifact(0.5, "Q4_0", "mlx"))
    plan = make_plan(device(), catalog(SMALL, both), [GGUF, MLX], Request(model="both"))
    assert plan.backend == "mlx"  # the faster one
    plan = make_plan(device(), catalog(SMALL, both), [GGUF, MLX], Request(model="both", draft_model="small"))
    assert plan.draft is not None and plan.backend == plan.draft.backend == "gguf"  # small has no file for mlx
    assert [(one.backend, one.kind, one.reason) for one in plan.rejected] == [
        ("mlx", "unavailable", "mlx cannot run the draft model small")
    ]


def test_every_conversation_adds_its_keys_and_values() -> None:
    def planned(n: int) -> Plan:
        exits, request = replace(SMALL, exit_layer=3), Request(context=4096, conversations=n)
        return make_plan(device(), catalog(exits), [GGUF], request, drafters=drafter_facts())

    one, four = planned(1), planned(4)
    assert four.n_conversations == 4
    assert four.window == one.window
    assert four.estimate.kv_bytes == 4 * one.estimate.kv_bytes
    assert one.speculation.exit_layer == four.speculation.exit_layer == 3
    assert four.estimate.workspace_bytes == one.estimate.workspace_bytes  # all draft in the same two contexts
    with pytest.raises(UsageError, match="conversations must be from 1 to 256; received 0"):
        planned(0)


@pytest.mark.parametrize("tier", ["Q4_0", "Q8_0", "mlx-4bit-g64"])
@pytest.mark.parametrize("kv_type", ["f16", "q8_0", "q4_0", "q8_0/f16", "f32"])
def test_a_named_mac_and_that_mac_itself_have_one_plan(tier: str, kv_type: KvType) -> None:
    mac = named("macbook-air-m2-16gb")
    backend = "mlx" if tier.startswith("mlx") else "gguf"
    files = (artifact(0.5, tier, backend), artifact(0.5, tier, "mlx"))
    probes = {"gguf": Probe({"llama.cpp": "1"}), "mlx": Probe({"mlx": "1"})}

    def outcome(found: Mapping[str, Probe]) -> object:
        try:
            plan = make_plan(
                mac,
                catalog(model("m", 1, *files)),
                [GGUF, FACTS],
                Request(kv_type=kv_type, force=True),
                probes=found,
            )
        except NoPlanError as error:
            return str(error), error.rejected
        return plan

    assert outcome({}) == outcome(probes)


def test_a_plan_says_that_early_exit_is_switched_off() -> None:
    probes = {"gguf": Probe(no_early_exit="SWITCH=off")}
    exits = replace(SMALL, exit_layer=2)
    plan = make_plan(device(), catalog(exits), [GGUF], Request(), drafters=drafter_facts(), probes=probes)
    assert plan.speculation.exit_layer is None
    assert plan.speculation.note.endswith("; no early exit: SWITCH=off")


@pytest.mark.parametrize("layer", [-1, 0, 10, 99])
def test_a_plan_refuses_an_exit_layer_that_the_model_does_not_have(layer: int) -> None:
    exits = replace(SMALL, exit_layer=layer)
    plan = make_plan(device(), catalog(exits), [GGUF], Request(), drafters=drafter_facts())
    assert plan.speculation.exit_layer is None
    words = f"; no early exit: the model has {SMALL.shape.n_layers} layers and cannot stop after layer {layer}"
    assert plan.speculation.note.endswith(words)
    with pytest.raises(UsageError, match="small has no early exit on gguf"):
        make_plan(device(), catalog(exits), [GGUF], Request(speculation="early-exit"), drafters=drafter_facts())


def test_a_draft_model_that_no_catalog_has_is_refused() -> None:
    with pytest.raises(ModelNotFoundError, match="no model named smal") as caught:
        make_plan(device(), catalog(SMALL, LARGE), [GGUF], Request(model="large", draft_model="smal"))
    assert "small" in caught.value.hint


def test_a_kv_type_that_the_backend_lacks_is_refused() -> None:
    with pytest.raises(NoPlanError, match="mlx does not keep K and V as q8_0/f16"):
        make_plan(device(), catalog(model("m", 1, artifact(1, "Q4_0", "mlx"))), [MLX], Request(kv_type="q8_0/f16"))


def test_llama_cpp_keeps_f16_on_metal() -> None:
    mac = replace(device(), os="macos", accelerators=frozenset({"metal"}))
    assert make_plan(mac, catalog(SMALL), [GGUF], Request()).kv_type == "f16"
    assert make_plan(mac, catalog(SMALL), [GGUF], Request(kv_type="q4_0")).kv_type == "q4_0"


def test_v_in_16_bits_is_preferred_where_its_gain_was_measured() -> None:
    arm = replace(device(), cpu_features=frozenset({"neon"}))
    assert make_plan(device(), catalog(SMALL), [GGUF], Request()).kv_type == "q8_0/f16"
    assert make_plan(arm, catalog(SMALL), [GGUF], Request()).kv_type == "q8_0"
    odd = replace(SMALL, shape=with_shape(kv=(LayerKv(10, 4, 80),)))  # not a multiple of 32
    assert {make_plan(one, catalog(odd), [GGUF], Request()).kv_type for one in (device(), arm)} == {"f16"}


def test_a_mixture_of_experts_is_loaded_whole_but_read_in_part() -> None:
    moe = with_shape(n_params=10_000_000_000, n_active_params=1_000_000_000)
    plan = make_plan(device(8, 100), catalog(model("moe", 1, artifact(5), shape=moe)), [GGUF], Request())
    assert plan.estimate.weight_bytes == 5_000_000_000
    assert plan.expected_tokens_per_s == pytest.approx(1 / (0.5e9 / 70e9 + 10 * 100e-6))


def test_the_plan_names_drafters_and_exact_rows() -> None:
    seen = model("small", 1, artifact(0.5, "Q4_K_M", tensors=("Q4_K", "Q6_K")))
    plan = make_plan(device(), catalog(seen), [GGUF], Request(), drafters=drafter_facts())
    assert (plan.speculation.drafters, plan.speculation.max_rows) == (("lookup",), 3)
    plan = make_plan(device(), catalog(SMALL), [GGUF], Request(tier="Q8_0"), drafters=drafter_facts())
    assert plan.speculation.max_rows == 16
    off = make_plan(device(), catalog(SMALL), [GGUF], Request(speculation="off"), drafters=drafter_facts())
    assert off.speculation.drafters == ()
    with pytest.raises(UsageError, match="no early exit"):
        make_plan(device(), catalog(SMALL), [GGUF], Request(speculation="early-exit"), drafters=drafter_facts())
    with pytest.raises(UsageError, match="needs its name"):
        make_plan(device(), catalog(SMALL), [GGUF], Request(speculation="draft"), drafters=drafter_facts())


def test_a_refusal_says_how_many_megabytes_are_missing() -> None:
    absent = {"mlx": Probe(unavailable="no Metal GPU")}
    both = model("both", 2, artifact(6, "mlx-4bit-g64", "mlx"), artifact(7, "Q4_K_M"), artifact(9, "Q8_0"))
    small = model("small", 1, artifact(0.5, "Q4_0"))

    def told(free_gb: float, gb_per_s: float) -> list[str]:
        plan = make_plan(
            device(free_gb, gb_per_s), catalog(small, both), [GGUF, MLX], Request(context=4096), probes=absent
        )
        return [line for line in details(plan) if line.startswith("refused: ")]

    (line,) = told(4, 200)
    assert line.startswith("refused: both Q4_K_M on gguf: needs ") and line.endswith("MB more than the budget")
    (line,) = told(16, 20)
    assert line == "refused: both Q4_K_M on gguf: too slow: 2.0 tokens/s, below 8"


def test_a_tier_is_accepted_in_any_letter_case() -> None:
    assert pick(Request(tier="q8_0"), free_gb=12) == ("large", "Q8_0")
    assert pick(Request(model="small", tier="q4_k_m")) == ("small", "Q4_K_M")


def test_a_tier_or_context_that_no_model_has_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no model has files of tier Q4_K_L") as caught:
        pick(Request(tier="Q4_K_L"))
    assert caught.value.hint == "there are Q4_K_M, Q8_0"
    with pytest.raises(UsageError, match="no model has 16385 positions") as caught:
        pick(Request(context=16385))
    assert caught.value.hint == "--context 16384 is the largest"


def test_an_absent_engine_is_not_blamed_for_what_the_others_refuse() -> None:
    absent = {"mlx": Probe(unavailable="no Metal GPU", hint="buy a Mac")}
    both = model("both", 3, artifact(0.5, "Q4_0"), artifact(0.5, "mlx-4bit-g64", "mlx"))
    with pytest.raises(NoPlanError, match="no backend can run both: gguf does not keep K and V as f32") as caught:
        make_plan(device(), catalog(both), [GGUF, MLX], Request(model="both", kv_type="f32"), probes=absent)
    assert caught.value.hint == "without --kv-type each backend takes its own"
    assert len(caught.value.rejected) == 2


def test_a_file_from_the_package_index_is_preferred_to_better_tiers_from_the_hub() -> None:
    packed = replace(artifact(0.5, "Q4_0"), repo="", package="tiny==1.0")
    one = model("one", 1, packed, artifact(1.0, "Q8_0"))
    chosen = make_plan(device(), catalog(one), [GGUF], Request(model="one"))
    assert chosen.artifact == packed
    assert "the one that the package index has" in chosen.reasons[0]
    assert any("needs no model hub" in refused.reason for refused in chosen.rejected)
    assert make_plan(device(), catalog(one), [GGUF], Request(model="one", tier="Q8_0")).artifact.tier == "Q8_0"


def test_a_tensor_type_that_is_slow_to_unpack_lowers_the_expected_speed() -> None:
    """Each of two cores unpacks 9 GB/s of Q4_1 or 20 GB/s of Q8_0; memory gives 70 GB/s."""
    speed = EngineSpeed("gguf", 0.7, 0.0, core_bytes_per_s=15e9, core_rates={"Q4_1": 9e9, "Q8_0": 20e9})
    two_cores = replace(device(gb_per_s=100), n_cores=2, speeds=(speed,))
    mixed = replace(artifact(0.5, "Q4_1"), tensors=(("Q4_1", 360_000_000), ("Q8_0", 140_000_000)))
    assert expected_tokens_per_s(two_cores, with_shape(), mixed) == pytest.approx(1 / (0.36 / 18 + 0.14 / 40))
    unseen = artifact(0.5, "Q4_1")
    assert expected_tokens_per_s(two_cores, with_shape(), unseen) == pytest.approx(1 / (0.5 / 18))
    other = artifact(0.5, "Q4_K_M")  # not in the table, so like most 4-bit types
    assert expected_tokens_per_s(two_cores, with_shape(), other) == pytest.approx(1 / (0.5 / 30))
    many = replace(two_cores, n_cores=16)
    assert expected_tokens_per_s(many, with_shape(), mixed) == pytest.approx(1 / (0.5 / 70))


def test_a_head_of_many_short_rows_is_expected_to_be_slower() -> None:
    speed = EngineSpeed("gguf", 0.7, 0.0, core_rates={"Q8_0": 20e9, "Q4_0": 20e9}, head_rates={"Q8_0": 10e9})
    one_core = replace(device(gb_per_s=100), n_cores=1, speeds=(speed,))
    tensors = (("Q8_0", 180_000_000), ("Q4_0", 60_000_000))
    small = replace(artifact(0.5, "Q4_0"), tensors=tensors, head=("Q8_0", 160_000_000))
    expected = 0.160 / 10 + 0.020 / 20 + 0.060 / 20
    assert expected_tokens_per_s(one_core, with_shape(), small) == pytest.approx(1 / expected)
    usual = replace(small, head=("Q4_0", 60_000_000))  # has no rate in the table
    assert expected_tokens_per_s(one_core, with_shape(), usual) == pytest.approx(1 / 0.012)


def test_threads_share_the_time_of_a_layer_but_not_evenly() -> None:
    """One core reads 20 GB/s and each further one adds half of that; with several threads a layer takes 60 of 80 us."""
    speed = EngineSpeed("gguf", 0.7, 80e-6, core_rates={"Q4_0": 20e9}, further_core=0.5, layer_share=0.75)
    small = replace(artifact(0.3, "Q4_0"), tensors=(("Q4_0", 300_000_000),))
    n_layers = with_shape().n_layers
    for n_cores, gb_per_s, layer_us in ((1, 20, 80), (2, 30, 60), (3, 40, 60), (9, 70, 60)):
        machine = replace(device(gb_per_s=100), n_cores=n_cores, speeds=(speed,))
        expected = 0.3 / gb_per_s + n_layers * layer_us * 1e-6
        assert expected_tokens_per_s(machine, with_shape(), small) == pytest.approx(1 / expected), n_cores


def test_the_first_five_lines_state_the_choice_and_the_cost_of_a_short_context() -> None:
    def lines(context: int) -> list[str]:
        request = Request(model="small", context=context)
        return explain(make_plan(device(), catalog(SMALL), [GGUF], request))

    titles = ("model ", "why ", "memory ", "speed ", "context ")
    assert all(line.startswith(title) for line, title in zip(lines(2048), titles, strict=False))
    assert "perplexity" not in lines(2048)[4]
    assert lines(1024)[4].endswith(
        "outgrew it had about 10 % more perplexity on two real models, and 3 % with 2048 tokens"
    )
    assert "a chat that outgrew it had 20 to 40 % more perplexity" in lines(512)[4]
    short = model("short", 1, artifact(0.5), shape=with_shape(limit=1024))
    assert "perplexity" not in explain(make_plan(device(), catalog(short), [GGUF], Request(context=1024)))[4]


def test_the_trie_of_json_schemas_is_counted() -> None:
    plain = make_plan(device(), catalog(SMALL), [GGUF], Request(context=2048))
    held = make_plan(device(), catalog(SMALL), [GGUF], Request(context=2048, json_schemas=True))
    more = held.estimate.workspace_bytes - plain.estimate.workspace_bytes
    assert more == 460 * SMALL.shape.n_vocab > 0
    assert held.estimate.total_bytes == plain.estimate.total_bytes + more

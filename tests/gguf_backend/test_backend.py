"""The llama.cpp backend on tiny random models: what the conformance suite does not cover."""

import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("llama_cpp")

from edgeinfer.backends.gguf import BACKEND, llama
from edgeinfer.backends.gguf.cache import GgufCache
from edgeinfer.backends.gguf.facts import FACTS
from edgeinfer.backends.gguf.logs import EngineLog
from edgeinfer.backends.gguf.model import EngineSettings, GgufModel, is_repacked, rounding_note
from edgeinfer.backends.gguf.quantize import quantize
from edgeinfer.backends.gguf.threads import fastest_threads
from edgeinfer.errors import ArtifactError, EngineError, RewindError, UsageError
from edgeinfer.formats.gguf_header import read_header
from edgeinfer.formats.shape import shape_from_gguf
from edgeinfer.prefill import prefill
from edgeinfer.types import KvType
from edgeinfer.window import WindowPolicy
from tests.tiny_gguf import END, Tiny, write_tiny

POLICY = WindowPolicy(window=64, sink=8, block=16, limit=512)


def opened(path: Path, kv_type: KvType = "f16", n_threads: int = 1) -> GgufModel:
    return GgufModel(llama.load(path, mmap=False), read_header(path), EngineSettings(n_threads, kv_type))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.Q8_0.gguf", Tiny(tier="Q8_0"))


@pytest.fixture
def model(path: Path) -> Iterator[GgufModel]:
    model = opened(path)
    yield model
    model.close()
    model.close()


def tokens(n: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(3, 280, n)]


def step(cache: GgufCache, token: int) -> np.ndarray:
    step = cache.begin(1)
    row = step.verify([token])[0].numpy().copy()
    step.commit(1)
    return row


def test_an_engine_failure_in_a_round_leaves_the_cache_exact(model: GgufModel, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tokens(90)  # past the first eviction
    cache, plain = model.new_cache(POLICY), model.new_cache(POLICY)
    for one in (cache, plain):
        prefill(one, given)
    decode = llama._decode

    def fails_after_running(address: int, batch: object) -> int:
        assert decode(address, batch) == 0
        return -3

    round_ = cache.begin(3)
    monkeypatch.setattr(llama, "_decode", fails_after_running)
    with pytest.raises(EngineError, match=r"llama\.cpp stopped decoding: code -3"):
        round_.verify([5, 6, 7])
    monkeypatch.setattr(llama, "_decode", decode)
    round_.rollback()
    assert cache.length == 90
    assert np.array_equal(step(cache, 9), step(plain, 9))


def test_after_an_engine_failure_in_a_prefill_length_is_correct(
    model: GgufModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tokens(100)
    cache, plain = model.new_cache(POLICY), model.new_cache(POLICY)
    decode, calls = llama._decode, []

    def fails_the_second_time(address: int, batch: object) -> int:
        calls.append(batch)
        return int(decode(address, batch)) or (-3 if len(calls) == 2 else 0)

    monkeypatch.setattr(llama, "_decode", fails_the_second_time)
    with pytest.raises(EngineError):
        prefill(cache, given)
    monkeypatch.setattr(llama, "_decode", decode)
    assert cache.length == 64  # the first piece fills the window
    rest = prefill(cache, given[64:]).numpy().copy()
    assert np.array_equal(rest, prefill(plain, given).numpy())


def test_more_rows_than_llama_cpp_gives_logits_for_at_once(model: GgufModel) -> None:
    cache, plain = model.new_cache(POLICY), model.new_cache(POLICY)
    given = tokens(40)
    round_ = cache.begin(40)
    rows = [row.numpy().copy() for row in round_.verify(given)]
    round_.commit(40)
    for row, token in zip(rows, given, strict=True):
        assert np.array_equal(row, step(plain, token))


def test_rounds_refuse_misuse(model: GgufModel) -> None:
    cache = model.new_cache(POLICY)
    prefill(cache, tokens(62))
    with pytest.raises(UsageError, match="room for 2"):
        cache.begin(3)
    round_ = cache.begin(2)
    with pytest.raises(EngineError, match="while a round is open"):
        prefill(cache, [3])
    with pytest.raises(EngineError, match="does not draft"):
        round_.draft(3)
    with pytest.raises(EngineError, match="commit of 1 rows in a round of 0"):
        round_.commit(1)
    round_.verify([3, 4])
    with pytest.raises(EngineError, match="verifies once"):
        round_.verify([3])
    round_.rollback()
    round_.rollback()
    with pytest.raises(UsageError, match="1 to 450 positions are left"):
        prefill(cache, tokens(451))


def test_a_closed_model_does_not_crash(path: Path) -> None:
    model = opened(path)
    cache = model.new_cache(POLICY)
    row = prefill(cache, [3])
    model.close()
    with pytest.raises(EngineError, match="closed"):
        row.numpy()
    with pytest.raises(EngineError, match="closed"):
        cache.begin(1).verify([3])


@pytest.mark.parametrize(
    ("kv_type", "slots"), [("f16", 72), ("q8_0/f16", 72), ("q8_0", 300), ("q4_0", 600), ("f32", 256)]
)
@pytest.mark.parametrize("tiny", [Tiny(), Tiny(architecture="gemma3", n_layers=6, own_window=64)], ids=["llama", "own"])
def test_bytes_equal_those_that_llama_cpp_allocates(
    tmp_path: Path, tiny: Tiny, kv_type: KvType, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", tiny)
    lines: list[str] = []
    monkeypatch.setattr(llama.LOG, "write", lambda level, text: lines.append(text))
    model = opened(path, kv_type)
    try:
        window = (slots - 8) // 16 * 16
        cache = model.new_cache(WindowPolicy(window, 8, 16, 2048))
        said = [float(found[1]) for line in lines if (found := re.search(r"KV buffer size = +([\d.]+) MiB", line))]
        assert said
        assert cache.n_bytes / 2**20 == pytest.approx(sum(said), abs=0.01 * len(said))
        assert cache.n_bytes == FACTS.kv_bytes(shape_from_gguf(read_header(path)), cache.policy, kv_type)
    finally:
        model.close()


def test_sliding_layers_roll_back_or_refuse(tmp_path: Path) -> None:
    tiny = Tiny(architecture="gemma3", n_layers=6, own_window=32, tier="Q8_0")
    model = opened(write_tiny(tmp_path / "own.gguf", tiny))
    policy = WindowPolicy(1024, 0, 64, 2048)
    given = tokens(800)
    try:
        cache, plain = model.new_cache(policy), model.new_cache(policy)
        prefill(cache, given), prefill(plain, given)
        for kept in (1, 3, 0, 7):  # the cells of the sliding layers have been reused
            round_ = cache.begin(8)
            round_.verify([*given[:kept], *[4] * (8 - kept)])
            round_.commit(kept)
            for token in given[:kept]:
                step(plain, token)
            assert np.abs(step(cache, 9) - step(plain, 9)).max() < 1e-4
        with pytest.raises(RewindError, match="the model's own sliding window"):
            cache.rewind(100)
        cache.rewind(0)
        assert np.array_equal(prefill(cache, given[:50]).numpy(), prefill(model.new_cache(policy), given[:50]).numpy())
    finally:
        model.close()


@pytest.mark.parametrize("kv_type", ["q8_0/f16", "q8_0", "f16"])
def test_exact_rows_are_exact_with_two_threads_and_many_keys(tmp_path: Path, kv_type: KvType) -> None:
    """llama.cpp splits the f16 keys of a single row among threads from 512 cells: equality must not be promised."""
    model = opened(write_tiny(tmp_path / "tiny.gguf", Tiny(tier="Q8_0")), kv_type, n_threads=2)
    try:
        assert model.exact_rows == (None if kv_type == "f16" else 16)
        policy = WindowPolicy(768, 0, 64, 2048)
        cache, plain = model.new_cache(policy), model.new_cache(policy)
        given = tokens(600)
        prefill(cache, given), prefill(plain, given)
        round_ = cache.begin(4)
        rows = [row.numpy().copy() for row in round_.verify([5, 6, 7, 8])]
        singly = [step(plain, token) for token in (5, 6, 7, 8)]
        assert np.array_equal(rows, singly) == (kv_type != "f16")
    finally:
        model.close()


def test_a_note_says_when_tensor_types_let_drafts_change_a_token(tmp_path: Path) -> None:
    q8 = read_header(write_tiny(tmp_path / "q8.gguf", Tiny(tier="Q8_0")))
    f16 = read_header(write_tiny(tmp_path / "f16.gguf", Tiny(tier="F16")))
    x86 = platform.machine() == "x86_64"
    assert ("(F16)" in rounding_note(f16, EngineSettings(2, "q8_0/f16"))) == x86
    assert rounding_note(f16, EngineSettings(2, "q8_0/f16", exact_types=frozenset({"F16"}))) == ""
    assert rounding_note(q8, EngineSettings(2, "q8_0/f16")) == ""
    assert rounding_note(f16, EngineSettings(2, "f16")) == ""  # here K and V are the reason, and the plan says so


def test_the_tokenizer_encodes_and_decodes_the_same_text(model: GgufModel) -> None:
    tokenizer = model.tokenizer
    text = "the rain in Spain, naïve café 日本 \U0001f98a\n"
    ids = tokenizer.encode(text, special=False)
    assert b"".join(map(tokenizer.piece, ids)).decode() == text
    assert len(ids) < len(text.encode())  # merges were applied
    assert tokenizer.encode("<|im_end|>", special=True) == [END]
    assert len(tokenizer.encode("<|im_end|>", special=False)) > 1
    assert tokenizer.piece(END) == b""
    assert tokenizer.stop_tokens >= {0, END}
    assert (tokenizer.bos_text, tokenizer.eos_text) == ("", "<|im_end|>")
    assert tokenizer.encode("a\ud800b", special=False) == tokenizer.encode("a?b", special=False)
    assert tokenizer.encode("", special=False) == []
    assert tokenizer.chat_template is not None
    assert "im_start" in tokenizer.chat_template


def test_the_reason_of_llama_cpp_for_refusing_a_file_is_passed_on(
    tmp_path: Path, path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(path.read_bytes()[:-4096])
    with pytest.raises(ArtifactError, match=r"llama\.cpp could not load cut\.gguf: .*(tensor|file)"):
        llama.load(cut)
    assert capfd.readouterr() == ("", "")


def test_quantize_writes_pure_files_completely_or_not_at_all(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "tiny.F16.gguf", Tiny(tier="F16", hidden=256, n_heads=8))
    for search in (False, True):
        out = tmp_path / f"tiny.{search}.gguf"
        quantize(source, out, "Q4_0", pure=True, search=search)
        assert {t.type.name for t in read_header(out).tensors if len(t.shape) > 1} == {"Q4_0"}
        assert is_repacked(read_header(out))
    assert not is_repacked(read_header(source))
    with pytest.raises(UsageError, match="Q9_9"):
        quantize(source, tmp_path / "never.gguf", "Q9_9")
    with pytest.raises(EngineError, match="could not quantize"):
        quantize(tmp_path / "missing.gguf", tmp_path / "never.gguf", "Q8_0")
    assert not list(tmp_path.glob("never*"))


def test_the_chosen_number_of_threads_is_within_the_bound(path: Path) -> None:
    loaded = llama.load(path)
    try:
        assert fastest_threads(loaded, 1) == 1
        assert fastest_threads(loaded, 2) in (1, 2)
    finally:
        loaded.close()


def test_probe_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    found = BACKEND.probe()
    assert not found.unavailable
    assert found.versions["llama-cpp-python"]
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    gone = BACKEND.probe()
    assert gone.unavailable.startswith("llama-cpp-python cannot be used")
    assert "edgeinfer[gguf]" in gone.hint


def test_the_log_keeps_whole_warnings_and_drops_the_rest() -> None:
    log = EngineLog(n_lines=3)
    log.write(2, "information\n")
    log.write(5, "more of it\n")
    log.write(4, "the first ")
    log.write(5, "mistake\n")
    log.write(3, "a warning\n")
    assert log.tail(9) == "the first mistake; a warning"
    for n in range(5):
        log.write(4, f"error {n}\n")
    assert log.tail(9) == "error 2; error 3; error 4"
    log.clear()
    assert log.tail() == ""

"""K and V copied out of llama.cpp and back: a state of unknown layout is refused."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("llama_cpp")

from edgeinfer.backends.gguf import llama
from edgeinfer.backends.gguf.model import EngineSettings, GgufModel
from edgeinfer.backends.gguf.state import Rows, State, StateLayout, joined, parsed
from edgeinfer.errors import EngineError
from edgeinfer.formats.gguf_header import read_header
from edgeinfer.prefill import prefill
from edgeinfer.types import KvType
from edgeinfer.window import WindowPolicy
from tests.tiny_gguf import Tiny, write_tiny

POLICY = WindowPolicy(window=64, sink=8, block=16, limit=512)
TOKENS = list(range(3, 51))


def opened(path: Path, kv_type: KvType, n_caches: int) -> GgufModel:
    settings = EngineSettings(1, kv_type)
    return GgufModel(llama.load(path), read_header(path), settings, n_caches=n_caches, policy=POLICY)


def as_array(data: bytes | bytearray) -> np.ndarray:
    return np.frombuffer(bytes(data), np.uint8)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.Q4_0.gguf", Tiny(tier="Q4_0"))


@pytest.fixture
def state(path: Path) -> Iterator[bytes]:
    model = opened(path, "q8_0/f16", 3)
    for _ in range(2):
        cache = model.new_cache(POLICY)
    prefill(cache, TOKENS)
    yield cache.context.state(1).tobytes()
    model.close()


def test_a_state_comes_back_byte_for_byte(state: bytes) -> None:
    whole = parsed(as_array(state), 1)
    assert whole.positions.tolist() == list(range(48))
    blocks = [whole.cut(range(start, start + 16)) for start in (0, 16, 32)]
    given = [block for block in blocks if block is not None]
    assert len(given) == 3
    assert joined(whole.layout, given, [16, 16, 16], 1) == state


def test_a_block_is_cut_from_whatever_cells_hold_it() -> None:
    layout = StateLayout(0, 1, 1, (Rows(0, 2),))
    positions = np.array([4, 5, 0, 1, 3, 2], np.int32)
    state = State(layout, positions, (np.arange(12, dtype=np.uint8).reshape(6, 2),))
    assert state.cut(range(2)) == bytes([4, 5, 6, 7])
    assert state.cut(range(1, 4)) == bytes([6, 7, 10, 11, 8, 9])
    assert state.cut(range(4, 7)) is None


@pytest.mark.parametrize("n_caches", [1, 2, 5])
def test_blocks_fit_a_context_with_another_number_of_streams(path: Path, state: bytes, n_caches: int) -> None:
    block = parsed(as_array(state), 1).cut(range(48))
    assert block is not None
    model = opened(path, "q8_0/f16", n_caches)
    fresh, filled = model.new_cache(POLICY), None
    prefill(fresh, TOKENS)
    expected = prefill(fresh, [9]).numpy().copy()
    if n_caches == 1:
        fresh.close()
    filled = model.new_cache(POLICY)
    filled.restore([block])
    assert np.array_equal(prefill(filled, [9]).numpy(), expected)
    model.close()


@pytest.mark.parametrize("cut", [0, 4, 11, 100, -1])
def test_a_truncated_state_is_refused(state: bytes, cut: int) -> None:
    with pytest.raises(EngineError, match="not of the known layout"):
        parsed(as_array(state[:cut]), 1)


def test_states_of_another_layout_are_refused(path: Path, state: bytes) -> None:
    for data, stream in ((state, 0), (state, 2), (state, 3), (state + b"\0", 1), (state[4:], 1)):
        with pytest.raises(EngineError, match="not of the known layout"):
            parsed(as_array(data), stream)
    cells = bytearray(state)
    cells[24] = 7  # the number of streams that a cell belongs to: magic, stream, n_streams, 0, cells, position
    with pytest.raises(EngineError, match="not of one stream"):
        parsed(as_array(cells), 1)


def test_the_format_names_everything_that_k_and_v_depend_on(path: Path) -> None:
    formats = set()
    for kv_type in ("f16", "q8_0", "q8_0/f16"):
        model = opened(path, kv_type, 1)
        formats.add(model.new_cache(POLICY).block_format)
        model.close()
    assert len(formats) == 3 and all("0.3.36" in text for text in formats)

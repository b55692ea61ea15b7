"""The K and V of a stream as llama.cpp writes them, cut into spans of positions and joined again for any stream.

The layout is that of `llama_kv_cache::state_write` in the llama.cpp of llama-cpp-python 0.3.36, with V not transposed.
It is read from what the engine itself wrote, and every length is checked: llama.cpp must not see a state that it would
not have written.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgeinfer.errors import EngineError

if TYPE_CHECKING:
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

__all__ = ["State", "StateLayout", "joined", "parsed"]

_HEAD: Final = struct.Struct("<Ii")  # magic, the stream that was written
_COUNT: Final = struct.Struct("<I")
_KIND: Final = struct.Struct("<iQ")  # ggml type, bytes a row
_V_TRANSPOSED: Final = 0
_CELL: Final = np.dtype([("position", "<i4"), ("n_streams", "<u4"), ("stream", "<i4")])


@dataclass(frozen=True, slots=True)
class Rows:
    """K or V of one layer: a row for each position."""

    kind: int  # ggml type
    n_bytes: int  # of a row


@dataclass(frozen=True, slots=True)
class StateLayout:
    """What every state of a context has in common."""

    magic: int
    n_streams: int
    n_layers: int
    rows: tuple[Rows, ...]  # K of every layer, then V

    @property
    def position_bytes(self) -> int:
        return sum(rows.n_bytes for rows in self.rows)


@dataclass(frozen=True, slots=True)
class State:
    """One stream: `rows[i]` is [cells, bytes] for `layout.rows[i]`, in the order of `positions`."""

    layout: StateLayout
    positions: npt.NDArray[np.int32]
    rows: tuple[Bytes, ...]

    def cut(self, span: range) -> bytes | None:
        """The rows of `span`, by layers; None where a position is missing."""
        order = np.argsort(self.positions, kind="stable")
        first = int(np.searchsorted(self.positions[order], span.start))
        cells = order[first : first + len(span)]
        if not np.array_equal(self.positions[cells], np.array(span)):
            return None
        taken = slice(int(cells[0]), int(cells[-1]) + 1) if in_a_row(cells) else cells  # a slice copies nothing
        return b"".join(rows[taken].data for rows in self.rows)


def in_a_row(cells: npt.NDArray[np.intp]) -> bool:
    return len(cells) > 0 and bool((np.diff(cells) == 1).all())


def parsed(data: Bytes, stream: int) -> State:
    """Raises EngineError for anything but a state of `stream` alone, to the last byte."""
    try:
        return _parsed(data, stream)
    except (struct.error, ValueError) as error:
        raise EngineError(f"the state that llama.cpp wrote is not of the known layout: {error}") from error


def joined(layout: StateLayout, blocks: Sequence[bytes], counts: Sequence[int], stream: int) -> bytes:
    """The state of `stream` with `blocks`, as `State.cut` gives them, of `counts` positions from 0 on."""
    cells = np.zeros(sum(counts), _CELL)
    cells["position"] = np.arange(len(cells))
    cells["n_streams"] = 1
    cells["stream"] = stream
    parts: list[bytes | memoryview] = [_HEAD.pack(layout.magic, stream), _COUNT.pack(layout.n_streams)]
    parts += [_COUNT.pack(0)] * stream + [_COUNT.pack(len(cells)), cells.tobytes()]
    parts += [_COUNT.pack(_V_TRANSPOSED), _COUNT.pack(layout.n_layers)]
    views = [memoryview(block) for block in blocks]
    starts = [0] * len(blocks)
    for rows in layout.rows:
        parts.append(_KIND.pack(rows.kind, rows.n_bytes))
        for index, (block, n) in enumerate(zip(views, counts, strict=True)):
            parts.append(block[starts[index] : starts[index] + n * rows.n_bytes])
            starts[index] += n * rows.n_bytes
    parts += [_COUNT.pack(0)] * (layout.n_streams - stream - 1)
    return b"".join(parts)


def _parsed(data: Bytes, stream: int) -> State:
    read = _Reader(data)
    magic, _ = read.fields(_HEAD)
    (n_streams,) = read.fields(_COUNT)
    if not stream < n_streams:
        raise ValueError(f"{n_streams} streams, of which {stream} is none")
    for _ in range(stream):
        read.empty()
    (n_cells,) = read.fields(_COUNT)
    cells = np.frombuffer(read.take(n_cells * _CELL.itemsize), _CELL)
    if not n_cells or (cells["n_streams"] != 1).any() or (cells["stream"] != stream).any():
        raise ValueError("cells that are not of one stream")
    v_transposed, n_layers = read.fields(_COUNT) + read.fields(_COUNT)
    if v_transposed != _V_TRANSPOSED:
        raise ValueError("V is transposed")
    found = list(_rows(read, 2 * n_layers, n_cells))
    for _ in range(n_streams - stream - 1):
        read.empty()
    read.end()
    kinds, rows = tuple(kind for kind, _ in found), tuple(values for _, values in found)
    return State(StateLayout(magic, n_streams, n_layers, kinds), cells["position"].copy(), rows)


def _rows(read: _Reader, n: int, n_cells: int) -> Iterator[tuple[Rows, Bytes]]:
    for _ in range(n):
        kind, n_bytes = read.fields(_KIND)
        values = np.frombuffer(read.take(n_cells * n_bytes), np.uint8)
        yield Rows(kind, n_bytes), values.reshape(n_cells, n_bytes)


class _Reader:
    def __init__(self, data: Bytes) -> None:
        self._data = data.data
        self._at = 0

    def take(self, n: int) -> memoryview:
        part = self._data[self._at : self._at + n]
        if len(part) != n:
            raise ValueError(f"it ends after {len(self._data)} bytes")
        self._at += n
        return part

    def fields(self, of: struct.Struct) -> tuple[Any, ...]:
        return of.unpack(self.take(of.size))

    def empty(self) -> None:
        (n_cells,) = self.fields(_COUNT)
        if n_cells:
            raise ValueError("cells of another stream")

    def end(self) -> None:
        if self._at != len(self._data):
            raise ValueError(f"{len(self._data) - self._at} bytes are left over")

"""The rows of several conversations in one forward of a stock mlx-lm model.

The rows of one conversation are a batch of one: [1, T]. Those of several are a batch of N: [N, 1], one row each. Stock
layers take a RoPE offset for each entry of a batch, so every row turns by its own position, and every product sees N
rows. Only attention is split: the rows of a conversation attend to its own ring. (mlx-lm 0.32.2 batches conversations
by such offsets.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import mlx.core as mx

from edgeinfer.backends.mlx.ring import RingLayer, Rings

__all__ = ["Forward", "PackedLayer", "Part"]


@dataclass(frozen=True, slots=True)
class Part:
    """A conversation's rows in a forward: `n_rows` from position `start` on, and the rings they see."""

    rings: Rings
    start: int
    n_rows: int


class Forward:
    """One forward over `parts`, which belong to different conversations."""

    def __init__(self, parts: Sequence[Part]) -> None:
        for part in parts:
            part.rings.span.place(part.start, part.n_rows)
        self._cuts = list(accumulate(part.n_rows for part in parts))[:-1]
        self.layers: Sequence[RingLayer | PackedLayer] = parts[0].rings.layers
        if self._cuts:
            offset = mx.array([part.start + row for part in parts for row in range(part.n_rows)], mx.int32)
            layers = zip(*(part.rings.layers for part in parts), strict=True)
            self.layers = [PackedLayer(rings, self._cuts, offset) for rings in layers]

    def pack(self, arrays: Sequence[mx.array]) -> mx.array:
        """[1, T, ...] of each part -> [N, 1, ...]; with one part, the array as it is."""
        return mx.concatenate(list(arrays), axis=1).swapaxes(0, 1) if self._cuts else arrays[0]

    def unpack(self, packed: mx.array) -> list[mx.array]:
        """What `pack` joined."""
        if not self._cuts:
            return [packed]
        return _split(packed.swapaxes(0, 1), self._cuts, axis=1)


class PackedLayer:
    """One layer's rings of several conversations, in the shape that stock mlx-lm models expect of a cache.

    keys, values and queries are [N, H, 1, D]. `offset` [N] has the position of each row.
    """

    def __init__(self, rings: Sequence[RingLayer], cuts: Sequence[int], offset: mx.array) -> None:
        self.offset = offset
        self._rings = rings
        self._cuts = cuts

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[PackedLayer, PackedLayer]:
        """Write each row into its ring. Attention, also that of later layers that share K and V, gets this object for
        them; a family that attends by itself cannot use it (`packing.refusal`)."""
        for ring, own_keys, own_values in zip(self._rings, self._split(keys), self._split(values), strict=True):
            ring.update_and_fetch(own_keys, own_values)
        return self, self

    def make_mask(self, n_rows: int, *, window_size: int | None = None, return_array: bool = False) -> None:
        """None: the rings know what their rows see."""

    def attend(self, queries: mx.array, scale: float, sink_logits: mx.array | None) -> mx.array:
        """queries [N, Hq, 1, D], each over its ring -> [N, Hq, 1, D]."""
        parts = zip(self._rings, self._split(queries), strict=True)
        out = [ring.attend(own, scale, sink_logits) for ring, own in parts]
        return mx.concatenate(out, axis=2).transpose(2, 1, 0, 3)

    def _split(self, rows: mx.array) -> list[mx.array]:
        """[N, H, 1, D] -> [1, H, T, D] of each conversation."""
        return _split(rows.transpose(2, 1, 0, 3), self._cuts, axis=2)


def _split(joined: mx.array, cuts: Sequence[int], axis: int) -> list[mx.array]:
    return list(mx.split(joined, list(cuts), axis=axis))

"""One layer's keys and values in MLX: a ring of `policy.slots` rows, in the shape that stock mlx-lm models expect.

All layers of a cache share one `Span`: the positions of the forward that is running. A ring has no position of its own,
so rolling a round back touches nothing here, and layers that a stub skips cannot disagree with those that ran.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx

from edgeinfer.window import WindowPolicy

Bits = Literal[4, 8, 16]
GROUP = 32  # values that share one scale and bias in a quantized row
STEP = 512  # rows of one prefill forward, at most


@dataclass(slots=True)
class Span:
    """The running forward: it writes positions [start, start + rows). Moved by the cache, read by every layer."""

    start: int = 0
    rows: int = 0


def storage_of(policy: WindowPolicy, own_window: int) -> WindowPolicy:
    """The ring that a layer needs. A layer with its own sliding window keeps no more than that and one forward.

    `STEP` rows of slack mean that no forward, and no rollback of one, meets a key that a later query still sees.
    """
    window = -(-own_window // STEP) * STEP + STEP
    if not own_window or window >= policy.slots:
        return policy
    return WindowPolicy(window=window, sink=0, block=window // 4, limit=policy.limit)


def held_positions(policy: WindowPolicy, end: int) -> mx.array:
    """[slots] int32: the newest position < `end` that each slot holds; negative where it holds none."""
    slots = mx.arange(policy.slots)
    # A ring slot s holds p with p % window == s - sink; the newest such p below `end`.
    phase = slots - policy.sink
    newest = end - 1 - ((end - 1 - phase) % policy.window)
    # Positions below `sink` live in the first slots only, never in the ring.
    ring = mx.where(newest >= policy.sink, newest, -1)
    return mx.where(slots < policy.sink, mx.where(slots < end, slots, -1), ring)


def used_slots(policy: WindowPolicy, end: int) -> int:
    """How many slots, from 0, have been written once positions below `end` are; a forward need not read the others."""
    if end > policy.window:
        return policy.slots
    return policy.slot(end - 1) + 1 if end > 0 else 0


class RingLayer:
    """K and V of one layer, stored by `storage` and seen through `policy`.

    Rows are [1, Hkv, T, D] of the model's dtype; with 8 or 4 bits each row is quantized (affine, groups of 32) before
    any query sees it, its own forward's too.
    """

    def __init__(self, policy: WindowPolicy, span: Span, *, kv_bits: Bits = 16, own_window: int = 0) -> None:
        self.policy = policy
        self.storage = storage_of(policy, own_window)
        self.span = span
        self.kv_bits: Bits = kv_bits
        self.stored: list[mx.array] = []  # keys then values: one array each, or codes, scales and biases each

    @property
    def offset(self) -> int:
        return self.span.start

    @property
    def n_bytes(self) -> int:
        return sum(array.nbytes for array in self.stored)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write rows [1, Hkv, T, D] at the span's positions; K and V of the used slots, [1, Hkv, slots, D]."""
        rows = [*self._encode(keys), *self._encode(values)]
        if not self.stored:
            self.stored = [_empty(row, self.storage.slots) for row in rows]
        for first, last in self._slices(keys.shape[2]):
            at = slice(self.storage.slot(self.span.start + first), self.storage.slot(self.span.start + last - 1) + 1)
            for array, row in zip(self.stored, rows, strict=True):
                array[:, :, at] = row[:, :, first:last]
        used = used_slots(self.storage, self.span.start + keys.shape[2])
        half = len(self.stored) // 2
        return (
            self._decode([array[:, :, :used] for array in self.stored[:half]], keys.dtype),
            self._decode([array[:, :, :used] for array in self.stored[half:]], values.dtype),
        )

    def make_mask(self, n_rows: int, *, window_size: int | None = None, return_array: bool = False) -> mx.array:
        """[n_rows, used slots] bool: what the window and the model's own sliding window both allow."""
        del return_array  # mlx-lm's way to ask for an array instead of the word "causal"; this is always an array
        start, policy = self.span.start, self.policy
        held = held_positions(self.storage, start + n_rows)[: used_slots(self.storage, start + n_rows)]
        query = mx.arange(start, start + n_rows)[:, None]
        oldest = mx.maximum(0, policy.block * (query // policy.block) - (policy.window - policy.block))
        visible = (held >= 0) & (held <= query) & ((held < policy.sink) | (held >= oldest))
        return visible & (held > query - window_size) if window_size else visible

    def _slices(self, n_rows: int) -> list[tuple[int, int]]:
        """Runs of rows whose slots are neighbors: cut after the sinks and where the ring begins again."""
        start, storage = self.span.start, self.storage
        lap = (start // storage.window + 1) * storage.window  # the next position whose slot is the ring's first
        cuts = sorted({0, n_rows, *(cut - start for cut in (storage.sink, lap) if 0 < cut - start < n_rows)})
        return list(itertools.pairwise(cuts))

    def _encode(self, rows: mx.array) -> list[mx.array]:
        if self.kv_bits == 16:
            return [rows]
        return list(mx.quantize(rows, group_size=GROUP, bits=self.kv_bits))

    def _decode(self, stored: list[mx.array], dtype: Any) -> mx.array:
        if self.kv_bits == 16:
            return stored[0]
        codes, scales, biases = stored
        return mx.dequantize(codes, scales, biases, group_size=GROUP, bits=self.kv_bits).astype(dtype)


def _empty(row: mx.array, slots: int) -> mx.array:
    batch, heads, _, width = row.shape
    return mx.zeros((batch, heads, slots, width), row.dtype)

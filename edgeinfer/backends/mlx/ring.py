"""One layer's keys and values in MLX: a packed ring, in the shape that stock mlx-lm models expect of a cache.

All layers of a cache share one `Span`: the positions of the forward that is running. A ring has no position of its own,
so rolling a round back touches nothing here, and layers that a stub skips cannot disagree with those that ran.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import mlx.core as mx
import numpy as np

from edgeinfer.backends.mlx.kernels import Kernels, RingLayout, Step, unpack_rows
from edgeinfer.window import WindowPolicy

KvBits = Literal[4, 8, None]  # None: as the model computes, in 16 or 32 bits
STEP = 512  # rows of one prefill forward, at most


class Span:
    """The running forward over a window. Moved by the cache, read by every layer."""

    def __init__(self, policy: WindowPolicy) -> None:
        self.policy = policy
        self.start = 0
        self.n_rows = 0
        self.first = 0  # no key lies before this position
        self.end = 0  # of all positions written since the cache was empty, those rolled back as well
        self._steps: dict[tuple[WindowPolicy, int], Step] = {}

    def place(self, start: int, n_rows: int) -> None:
        self.start, self.n_rows = start, n_rows
        self.end = start + n_rows if start == 0 else max(self.end, start + n_rows)
        self._steps = {}

    def step(self, stored: WindowPolicy, sliding: int) -> Step:
        """What this forward sees of a ring stored by `stored`; shared by the layers that are alike."""
        if (stored, sliding) not in self._steps:
            self._steps[stored, sliding] = Step(self.start, self.n_rows, self.policy, stored, sliding, self.first)
        return self._steps[stored, sliding]


def storage_of(policy: WindowPolicy, own_window: int) -> WindowPolicy:
    """The ring that a layer needs. A layer with its own sliding window keeps no more than that and one forward.

    `STEP` rows of slack mean that no forward, and no rollback of one, meets a key that a later query still sees.
    """
    window = -(-own_window // STEP) * STEP + STEP
    if not own_window or window >= policy.slots:
        return policy
    return WindowPolicy(window=window, sink=0, block=window // 4, limit=policy.limit)


class Rings:
    """K and V of one conversation: a ring for each layer that keeps them, and the span that they share."""

    def __init__(self, policy: WindowPolicy, own_windows: Sequence[int], kernels: Kernels, kv_bits: KvBits) -> None:
        self.span = Span(policy)
        self.layers = [RingLayer(self.span, kernels, kv_bits=kv_bits, own_window=own) for own in own_windows]

    @property
    def n_bytes(self) -> int:
        return sum(layer.n_bytes for layer in self.layers)

    def clear(self) -> None:
        """Empty all rings, their shapes kept."""
        for layer in self.layers:
            layer.clear()

    def evaluate(self) -> None:
        mx.eval([layer.ring for layer in self.layers if layer.ring is not None])


class RingLayer:
    """K and V of one layer, [1, Hkv, slots, row] packed. `own_window` is the layer's own sliding window; 0 for none.

    A row is packed before any query sees it, its own forward's too.
    """

    def __init__(self, span: Span, kernels: Kernels, *, kv_bits: KvBits = None, own_window: int = 0) -> None:
        self.span = span
        self.storage = storage_of(span.policy, own_window)
        self.own_window = own_window
        self.ring: mx.array | None = None
        self._kernels = kernels
        self._kv_bits: KvBits = kv_bits
        self._layout: RingLayout | None = None

    def can_rewind(self, target: int) -> bool:
        """Whether no key that a query at `target` sees by this layer's own window was overwritten."""
        own = bool(self.own_window) and self.storage is not self.span.policy
        return not own or target == 0 or target - self.own_window >= self.span.end - self.storage.window

    @property
    def offset(self) -> int:
        return self.span.start

    @property
    def n_bytes(self) -> int:
        return self.ring.nbytes if self.ring is not None else 0

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write rows [1, Hkv, T, D] at the span's positions; K and V of the used slots, [1, Hkv, slots, D].

        What is returned is computed only where a family attends by itself; the others are routed to `attend`.
        """
        _, n_heads, n_rows, head_dim = keys.shape
        if self._layout is None or self.ring is None:
            self._layout = RingLayout(head_dim, self._kv_bits or (32 if keys.dtype == mx.float32 else 16), keys.dtype)
            self.ring = self._layout.empty(n_heads, self.storage.slots)  # lazy: no memory yet
        rows = self._kernels.pack_rows(keys, values, self._layout)
        for first, last in self._runs(n_rows):
            slot = self.storage.slot(self.span.start + first)
            self.ring[:, :, slot : slot + last - first] = rows[:, :, first:last]
        used = self.span.step(self.storage, self.own_window).used
        return unpack_rows(self.ring[:, :, :used], self._layout)

    def clear(self) -> None:
        """Empty the ring, its shape kept."""
        if self.ring is not None and self._layout is not None:
            self.ring = self._layout.empty(self.ring.shape[1], self.storage.slots)

    def stored(self, slots: list[int]) -> bytes:
        """The rows of those slots, as they are packed."""
        assert self.ring is not None, "a cache shapes its rings when it is made"
        return np.array(self.ring[:, :, mx.array(slots)].view(mx.uint8)).tobytes()

    def store(self, slots: list[int], data: bytes) -> None:
        """Put back what `stored` gave."""
        assert self.ring is not None, "a cache shapes its rings when it is made"
        rows = np.frombuffer(data, np.uint8).reshape(1, self.ring.shape[1], len(slots), -1)
        self.ring[:, :, mx.array(slots)] = mx.array(rows).view(self.ring.dtype)

    def make_mask(self, n_rows: int, *, window_size: int | None = None, return_array: bool = False) -> mx.array:
        """[n_rows, used slots] bool: what the window and the model's own sliding window both allow."""
        del n_rows, return_array  # the span knows the rows; mlx-lm may ask for a word instead of an array
        return self.span.step(self.storage, window_size or 0).mask()

    def attend(self, queries: mx.array, scale: float, sink_logits: mx.array | None) -> mx.array:
        """queries [1, Hq, T, D] over the ring that already holds their rows -> [1, Hq, T, D]."""
        assert self.ring is not None and self._layout is not None, "update_and_fetch comes first"
        step = self.span.step(self.storage, self.own_window)
        return self._kernels.attend(queries, self.ring, self._layout, step, scale, sink_logits=sink_logits)

    def _runs(self, n_rows: int) -> list[tuple[int, int]]:
        """Runs of rows whose slots are neighbors: cut after the sinks and where the ring begins again."""
        start, storage = self.span.start, self.storage
        lap = (start // storage.window + 1) * storage.window  # the next position whose slot is the ring's first
        cuts = sorted({0, n_rows, *(cut - start for cut in (storage.sink, lap) if 0 < cut - start < n_rows)})
        return list(itertools.pairwise(cuts))

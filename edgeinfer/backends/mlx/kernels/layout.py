"""How a ring row is packed, and what one forward sees of the ring.

A ring is one array [1, Hkv, slots, row]: K and V of a position side by side, so that new rows enter by one slice
update. At 16 and 32 bits a row is D values of K, then D of V, in the model's dtype. At 8 and 4 bits it is uint32 words,
K first: D codes, 4 or 8 to a word, lowest bits first; then a word per group, half scale low, half bias high. A row has
ceil(D / 64) groups of equal size, so that K and V cost 8.5 and 4.5 bits a value where D is a multiple of 64.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import mlx.core as mx

from edgeinfer.window import WindowPolicy

RingBits = Literal[4, 8, 16, 32]
TILE = 32  # slots that a SIMD group takes at once


@dataclass(frozen=True, slots=True)
class RingLayout:
    """The packed row of one layer. `dtype` is the model's: of K and V before packing and after unpacking."""

    head_dim: int
    bits: RingBits
    dtype: Any  # mx.Dtype

    @property
    def quantized(self) -> bool:
        return self.bits < 16

    @property
    def n_groups(self) -> int:
        """Groups in one packed K, and in one packed V."""
        return -(-self.head_dim // 64) if self.quantized else 0

    @property
    def n_words(self) -> int:
        """32-bit words that hold the values or codes of one K."""
        return self.head_dim * self.bits // 32

    @property
    def row_words(self) -> int:
        return 2 * (self.n_words + self.n_groups)

    @property
    def row(self) -> int:
        """Elements of one row in the ring's own dtype."""
        return self.row_words if self.quantized else 2 * self.head_dim

    @property
    def ring_dtype(self) -> Any:
        return mx.uint32 if self.quantized else self.dtype

    @property
    def row_bytes(self) -> int:
        """K and V of one position and KV head."""
        return 4 * self.row_words

    def empty(self, n_kv_heads: int, slots: int) -> mx.array:
        return mx.zeros((1, n_kv_heads, slots, self.row), self.ring_dtype)


@dataclass(slots=True, eq=False)
class Step:
    """One forward of `n_rows` rows at positions start, start + 1, ... over a ring that already holds them.

    `visible` says which keys a query sees, `stored` how slots are laid out: the same policy, but for a layer whose own
    sliding window lets it keep fewer. `sliding`: keys q - sliding + 1 .. q at most; 0 for none. No key lies before the
    position `first`. Build it once for all layers that share it: what it derives is kept.
    """

    start: int
    n_rows: int
    visible: WindowPolicy
    stored: WindowPolicy
    sliding: int = 0
    first: int = 0
    _params: dict[int, mx.array] = field(default_factory=dict)
    _mask: mx.array | None = None

    @property
    def end(self) -> int:
        return self.start + self.n_rows

    @property
    def used(self) -> int:
        """Slots, from 0, that have been written."""
        return self.stored.slots if self.end > self.stored.window else self.stored.slot(self.end - 1) + 1

    def params(self, splits: int) -> mx.array:
        """[16] int32 for attend.metal."""
        if splits not in self._params:
            numbers = [self.start, self.n_rows, self.end, self.visible.sink, self.visible.window, self.visible.block]
            numbers += [
                self.sliding,
                self.stored.sink,
                self.stored.window,
                self.stored.slots,
                self.used,
                splits,
                self.first,
            ]
            self._params[splits] = mx.array(numbers + [0] * (16 - len(numbers)), mx.int32)
        return self._params[splits]

    def mask(self) -> mx.array:
        """[n_rows, used] bool: which slots each row sees."""
        if self._mask is None:
            held = held_positions(self.stored, self.end)[: self.used]
            query, policy = mx.arange(self.start, self.end)[:, None], self.visible
            oldest = mx.maximum(0, policy.block * (query // policy.block) - (policy.window - policy.block))
            seen = (held >= self.first) & (held <= query) & ((held < policy.sink) | (held >= oldest))
            self._mask = seen & (query - held < self.sliding) if self.sliding else seen
        return self._mask


def held_positions(policy: WindowPolicy, end: int) -> mx.array:
    """[slots] int32: the newest position < `end` in each slot, -1 where there is none."""
    slot = mx.arange(policy.slots)
    newest = end - 1 - (end - 1 - (slot - policy.sink)) % policy.window
    recent = mx.where(newest >= policy.sink, newest, -1)
    return mx.where(slot < policy.sink, mx.where(slot < end, slot, -1), recent)

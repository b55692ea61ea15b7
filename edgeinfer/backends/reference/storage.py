"""Storage of K and V: rings of `slots` rows in one of the K/V types. A row is quantized before any query sees it."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgeinfer.backends.reference.weights import Floats, WeightsShape
from edgeinfer.errors import EngineError
from edgeinfer.types import KvType, ValueType, of_k_and_v

QUANTIZED = {"q8_0": "Q8_0", "q4_0": "Q4_0"}  # our names to those of the `gguf` package
BLOCK = 32  # values that share a scale in both


class Ring:
    """K or V of one layer: [KV heads, slots, head_dim], read and written in float32."""

    def __init__(self, shape: WeightsShape, slots: int, kind: ValueType) -> None:
        if kind in QUANTIZED and shape.head_dim % BLOCK:
            raise EngineError(
                f"KV type {kind} needs a head_dim that is a multiple of {BLOCK}; it is {shape.head_dim}",
                hint="choose KV type f16",
            )
        self._kind = kind
        heads = np.zeros((shape.n_kv_heads, slots, shape.head_dim), np.float32)
        self._places: npt.NDArray[Any] = self._encoded(heads)

    @property
    def n_bytes(self) -> int:
        return self._places.nbytes

    def write(self, slots: list[int], rows: Floats) -> None:
        """rows: [KV heads, T, head_dim]."""
        self._places[:, slots] = self._encoded(rows)

    def read(self, n_slots: int) -> Floats:
        """The first `n_slots` places."""
        places = self._places[:, :n_slots]
        if self._kind not in QUANTIZED:
            return places.astype(np.float32, copy=False)
        from gguf import GGMLQuantizationType, dequantize

        values: Floats = dequantize(np.ascontiguousarray(places), GGMLQuantizationType[QUANTIZED[self._kind]])
        return values

    def stored(self, slots: list[int]) -> bytes:
        """The rows of those slots as they are stored."""
        return self._places[:, slots].tobytes()

    def store(self, slots: list[int], data: bytes) -> None:
        """Write back what `stored` returned."""
        heads, _, width = self._places.shape
        self._places[:, slots] = np.frombuffer(data, self._places.dtype).reshape(heads, len(slots), width)

    def n_stored(self, n_slots: int) -> int:
        return self._places[:, :1].nbytes * n_slots

    def _encoded(self, rows: Floats) -> npt.NDArray[Any]:
        if self._kind == "f32":
            return rows
        if self._kind == "f16":
            return rows.astype(np.float16)
        from gguf import GGMLQuantizationType, quantize

        quantized: npt.NDArray[np.uint8] = quantize(rows, GGMLQuantizationType[QUANTIZED[self._kind]])
        return quantized


class LayerRings:
    """K and V of one layer."""

    def __init__(self, shape: WeightsShape, slots: int, kv_type: KvType) -> None:
        self._k, self._v = (Ring(shape, slots, kind) for kind in of_k_and_v(kv_type))
        self.n_bytes = self._k.n_bytes + self._v.n_bytes

    def write(self, slots: list[int], k: Floats, v: Floats) -> None:
        """k, v: [T, KV heads, head_dim]."""
        self._k.write(slots, k.transpose(1, 0, 2))
        self._v.write(slots, v.transpose(1, 0, 2))

    def read(self, n_slots: int) -> tuple[Floats, Floats]:
        """K and V of the first `n_slots` slots: [KV heads, n_slots, head_dim]."""
        return self._k.read(n_slots), self._v.read(n_slots)

    def snapshot(self, slots: list[int]) -> bytes:
        return self._k.stored(slots) + self._v.stored(slots)

    def restore(self, slots: list[int], data: bytes) -> None:
        n_bytes = self._k.n_stored(len(slots))
        self._k.store(slots, data[:n_bytes])
        self._v.store(slots, data[n_bytes:])

    def n_stored(self, n_slots: int) -> int:
        """Bytes of a snapshot of `n_slots`."""
        return self._k.n_stored(n_slots) + self._v.n_stored(n_slots)


Rings: TypeAlias = list[LayerRings]
"""A conversation's K and V, layer by layer."""

"""Projections of the same input joined into one matrix: Q, K and V become one dispatch, gate and up another.

A stock layer calls `q_proj(x)`, `k_proj(x)` and `v_proj(x)` in turn. Each of them becomes a part that answers from one
product; the first part that sees a new `x` computes it. A row of the product is the same dot product as before.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

GROUPS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class Product:
    """One matrix for several projections, and its last result until every part has been read."""

    def __init__(self, joint: Any, widths: list[int]) -> None:
        self.joint = joint
        self._cuts = [sum(widths[: index + 1]) for index in range(len(widths) - 1)]
        self._input: mx.array | None = None
        self._parts: dict[int, mx.array] = {}

    def part(self, index: int, x: mx.array) -> mx.array:
        if self._input is not x or index not in self._parts:
            self._input = x
            self._parts = dict(enumerate(mx.split(self.joint(x), self._cuts, axis=-1)))
        out = self._parts.pop(index)
        if not self._parts:
            self._input = None
        return out


class Part(nn.Module):  # type: ignore[misc]
    def __init__(self, product: Product, index: int) -> None:
        super().__init__()
        self.product = product  # a plain attribute: its weights belong to no part alone
        self._index = index

    def __call__(self, x: mx.array) -> mx.array:
        return self.product.part(self._index, x)


def join_projections(layers: list[Any]) -> int:
    """Join what can be joined in `layers`, in place; how many products were made."""
    made = 0
    for layer in layers:
        for module in layer.modules():
            for names in GROUPS:
                if product := _product(module, names):
                    for index, name in enumerate(names):
                        module[name] = Part(product, index)
                    made += 1
    return made


def _product(module: Any, names: tuple[str, ...]) -> Product | None:
    if not all(name in module for name in names):
        return None
    parts = [module[name] for name in names]
    kinds = {(type(part), *(getattr(part, key, None) for key in ("bits", "group_size", "mode"))) for part in parts}
    if len(kinds) != 1 or type(parts[0]) not in (nn.Linear, nn.QuantizedLinear):
        return None
    if len({frozenset(part.keys()) for part in parts}) != 1:  # a bias on some of them only
        return None
    widths = [part.weight.shape[0] for part in parts]
    joint = parts[0]
    for key in list(joint.keys()):
        joint[key] = mx.concatenate([part[key] for part in parts], axis=0)
    mx.eval(joint.parameters())
    return Product(joint, widths)

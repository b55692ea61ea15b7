"""Quantized linear layers whose products of a few rows go to `rows_matmul`: those of a verify, or of several
conversations.

One row and long prompts stay with MLX's own product.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from edgeinfer.backends.mlx.joined import Part
from edgeinfer.backends.mlx.kernels import MATMUL_ROWS, Kernels, Matrix

__all__ = ["route_products"]


class RowsLinear(nn.Module):  # type: ignore[misc]
    """A QuantizedLinear, called as before."""

    def __init__(self, stock: Any, kernels: Kernels) -> None:
        super().__init__()
        self._stock = stock
        self._kernels = kernels
        self._matrix = Matrix(stock.weight, stock.scales, stock.biases, stock.bits, stock.group_size)

    def __getattr__(self, name: str) -> Any:  # stock code may read weight, bits, ... of a layer
        return self[name] if name in self else getattr(self.get("_stock"), name)

    def __call__(self, x: mx.array) -> mx.array:
        width = x.shape[-1]
        if x.size // width not in MATMUL_ROWS:
            out: mx.array = self._stock(x)
            return out
        y = self._kernels.rows_matmul(x.reshape(-1, width), self._matrix).reshape(*x.shape[:-1], -1)
        return y + self._stock.bias if "bias" in self._stock else y


def route_products(layers: list[Any], kernels: Kernels) -> int:
    """Route what can be routed in `layers`, in place; how many products that is. None without the kernel."""
    if "rows_matmul" not in kernels.names:
        return 0
    routed = 0
    for layer in layers:
        for module in layer.modules():
            for name, child in list(module.items()):
                if _serves(child):
                    module[name] = RowsLinear(child, kernels)
                    routed += 1
                elif isinstance(child, Part) and _serves(child.product.joint):
                    child.product.joint = RowsLinear(child.product.joint, kernels)
                    routed += 1
    return routed


def _serves(module: Any) -> bool:
    return (
        type(module) is nn.QuantizedLinear
        and module.bits in (4, 8)
        and module.group_size in (32, 64, 128)
        and getattr(module, "mode", "affine") == "affine"
    )

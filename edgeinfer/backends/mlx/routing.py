"""Routes the one call that stock mlx-lm attention makes to the ring.

Each model file of mlx-lm imports `scaled_dot_product_attention` by name and passes it the layer's cache. In the files
that a loaded model comes from, that name is bound to a function that asks a ring first; for any other cache it is the
stock function (mlx-lm 0.32.2, models/base.py). gemma2 attends by itself and reads K and V from `update_and_fetch`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from edgeinfer.backends.mlx.forward import PackedLayer
from edgeinfer.backends.mlx.ring import RingLayer

_NAME = "scaled_dot_product_attention"


def route_attention(model: Any) -> int:
    """Bind the name in every mlx-lm file that `model` is made of; how many files are bound now."""
    files = {type(module).__module__ for module in model.modules()}
    bound = 0
    for file in sorted(name for name in files if name.startswith("mlx_lm.models.")):
        source = sys.modules[file]
        stock = getattr(source, _NAME, None)
        if stock is None:
            continue
        if not hasattr(stock, "stock"):
            setattr(source, _NAME, _routed(stock))
        bound += 1
    return bound


def _routed(stock: Callable[..., mx.array]) -> Callable[..., mx.array]:
    def attention(
        queries: mx.array,
        keys: Any,
        values: Any,
        cache: Any,
        scale: float,
        mask: Any,
        sinks: mx.array | None = None,
    ) -> mx.array:
        ring = keys if isinstance(keys, PackedLayer) else cache
        if isinstance(ring, RingLayer | PackedLayer):
            return ring.attend(queries, scale, sinks)
        return stock(queries, keys, values, cache=cache, scale=scale, mask=mask, sinks=sinks)

    attention.stock = stock  # type: ignore[attr-defined]
    return attention

"""Greedy tokens without logits: the stock model's head as `kernels.Head`, where it is one.

A family may scale or cap its logits in ways that a Head does not support. So the Head that is built from the modules is
compared once with the stock head, and not used if they disagree.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from edgeinfer.backends.mlx.adapter import NORM_NAMES, Stages, find_inner
from edgeinfer.backends.mlx.kernels import Head, Kernels
from edgeinfer.errors import ArtifactError

_TRIALS = 4  # random hidden states
_AGREES = 2e-2  # of the largest logit: 16-bit products round more coarsely than this at no width in use


def find_head(model: Any, stages: Stages, kernels: Kernels) -> Head | None:
    """The head of `model` with the norm before it; None where head_top1 is off or does not describe it."""
    if "head_top1" not in kernels.names:
        return None
    owner, _, inner = find_inner(model)
    norm = inner[next(name for name in NORM_NAMES if name in inner)]
    module = owner["lm_head"] if "lm_head" in owner else inner["embed_tokens"]
    if type(norm) is not nn.RMSNorm or "bias" in module:
        return None
    head = _head(module, norm, float(getattr(owner, "final_logit_softcapping", None) or 0.0))
    return head if head is not None and agrees(head, stages, kernels, norm.weight) else None


def ranked_head(model: Any, ranked: mx.array, norm_weight: mx.array, eps: float) -> Head:
    """The rows `ranked` of the model's head, with a norm of their own.

    Raises ArtifactError for a head that is stored in another way than affine codes or plain numbers.
    """
    owner, _, inner = find_inner(model)
    module = owner["lm_head"] if "lm_head" in owner else inner["embed_tokens"]
    names = [name for name in ("weight", "scales", "biases") if name in module]
    if "bias" in module or getattr(module, "mode", "affine") != "affine":
        raise ArtifactError(
            f"MLX runs no draft beside a head of type {type(module).__name__}", hint="leave --draft out"
        )
    rows = {name: module[name][ranked] for name in names}
    mx.eval(rows)
    bits = module.bits if "scales" in rows else 8 * module.weight.dtype.size
    group = module.group_size if "scales" in rows else 64
    scales, biases = rows.get("scales"), rows.get("biases")
    return Head(rows["weight"], bits, scales, biases, group, norm_weight, eps)


def _head(module: Any, norm: Any, softcap: float) -> Head | None:
    if isinstance(module, nn.QuantizedLinear | nn.QuantizedEmbedding) and getattr(module, "mode", "affine") == "affine":
        return Head(
            module.weight, module.bits, module.scales, module.biases, module.group_size, norm.weight, norm.eps, softcap
        )
    if isinstance(module, nn.Linear | nn.Embedding) and module.weight.dtype in (mx.float16, mx.bfloat16):
        return Head(module.weight, 16, norm_weight=norm.weight, eps=norm.eps, softcap=softcap)
    return None


def agrees(head: Head, stages: Stages, kernels: Kernels, like: mx.array) -> bool:
    """Whether the largest logit is the stock head's, on random hidden states of the norm weight's width."""
    hidden = mx.random.normal((1, _TRIALS, like.shape[0]), key=mx.random.key(0)).astype(like.dtype)
    stock = stages.head(hidden)[0].astype(mx.float32).max(axis=-1)
    top = kernels.head_top1(hidden[0], head)
    return bool(mx.all(mx.abs(top.logit - stock) <= _AGREES * mx.abs(stock)).item())

"""Rounds the four-bit matrices of a decoder again, so that its output on a sample of text changes least.

The sample runs through the layers in turn. Each matrix is rounded for its inputs, which come from matrices that are
already rounded. Only one matrix is held in float32 at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeinfer.backends.executorch.export.decoder import Attention, Decoder, Layer, Linear
from edgeinfer.backends.executorch.export.quantize import four_bit_tensor, has_four_bits
from edgeinfer.backends.executorch.export.rounding import rounded, spreads_of
from edgeinfer.backends.executorch.export.source import Source

_N_TOKENS = 2048
_PIECE = 512  # tokens that attend to each other


def calibrate(decoder: Decoder, source: Source, tokens: Sequence[int]) -> None:
    """Round every four-bit matrix that `source` does not store as Q4_0, for the text of `tokens`."""
    linears = [module for module in decoder.modules() if isinstance(module, Linear)]
    if not any(_is_rounded_here(linear, source) for linear in linears):
        return
    pieces = [tokens[at : at + _PIECE] for at in range(0, min(len(tokens), _N_TOKENS), _PIECE)]
    states = [decoder.embed(torch.tensor([piece])) for piece in pieces]
    for layer in decoder.layers:
        states = through(layer, source, states, decoder.frequencies)
    _round([decoder.head], source, [decoder.output_norm(state) for state in states])


def through(layer: Layer, source: Source, states: list[Tensor], frequencies: Tensor) -> list[Tensor]:
    """Round the matrices of `layer`. Returns `states` after it."""
    attention = layer.attention
    normed = [layer.attention_norm(state) for state in states]
    _round([attention.q, attention.k, attention.v], source, normed)
    mixed = [_attended(attention, state, frequencies) for state in normed]
    _round([attention.output], source, mixed)
    states = [state + attention.output(each) for state, each in zip(states, mixed, strict=True)]
    normed = [layer.ffn_norm(state) for state in states]
    _round([layer.gate, layer.up], source, normed)
    gated = [F.silu(layer.gate(state)) * layer.up(state) for state in normed]
    _round([layer.down], source, gated)
    return [state + layer.down(each) for state, each in zip(states, gated, strict=True)]


def _round(linears: Iterable[Linear], source: Source, inputs: Sequence[Tensor]) -> None:
    wanted = [linear for linear in linears if _is_rounded_here(linear, source)]
    if not wanted:
        return
    spreads = spreads_of(torch.cat([each[0] for each in inputs]))
    for linear in wanted:
        weight = torch.from_numpy(source.floats(linear.name).copy())
        linear.weight = torch.nn.Parameter(four_bit_tensor(rounded(weight, spreads)), requires_grad=False)


def _is_rounded_here(linear: Linear, source: Source) -> bool:
    return has_four_bits(linear.weight) and source.q4_0(linear.name) is None


def _attended(attention: Attention, x: Tensor, frequencies: Tensor) -> Tensor:
    """What `ring_attend` computes for a piece that begins at position 0 and fits into the window."""
    n_tokens = x.shape[1]
    q, k, v = (part(x).view(n_tokens, -1, attention.head_dim) for part in (attention.q, attention.k, attention.v))
    angles = torch.arange(n_tokens, dtype=torch.float64)[:, None] * frequencies
    q, k = (_turned(each, angles) for each in (attention.q_norm(q), attention.k_norm(k)))
    q, k, v = (each.transpose(0, 1)[None] for each in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return mixed[0].transpose(0, 1).reshape(1, n_tokens, -1)


def _turned(x: Tensor, angles: Tensor) -> Tensor:
    """RoPE over the two halves of a head; `x` [T, heads, head_dim], `angles` [T, head_dim / 2]."""
    cos, sin = angles.cos().float()[:, None], angles.sin().float()[:, None]
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

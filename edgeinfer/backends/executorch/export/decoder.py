"""The decoder as torch modules, in which XNNPACK takes everything between two attentions as one delegate."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeinfer.backends.executorch.export import operators
from edgeinfer.backends.executorch.export.quantize import Tier, embedding_weight, linear_weight
from edgeinfer.backends.executorch.export.source import Source


class Norm(nn.Module):
    """RMSNorm (arXiv 1910.07467). The mean is a linear layer, because XNNPACK does not take `mean`."""

    def __init__(self, source: Source, name: str) -> None:
        super().__init__()
        weight = torch.from_numpy(source.floats(name).copy())
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.eps = source.shape.norm_eps
        self.register_buffer("mean", torch.full((1, len(weight)), 1.0 / len(weight)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(F.linear(x * x, self.mean) + self.eps) * self.weight


class Linear(nn.Module):
    def __init__(self, source: Source, name: str, tier: Tier) -> None:
        super().__init__()
        self.name = name
        self.weight = nn.Parameter(linear_weight(source, name, tier), requires_grad=False)
        has_bias = source.has(f"{name}.bias")
        bias = torch.from_numpy(source.floats(f"{name}.bias").copy()) if has_bias else None
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Attention(nn.Module):
    def __init__(self, source: Source, layer: int, tier: Tier) -> None:
        super().__init__()
        at = f"blk.{layer}.attn_"
        self.layer = layer
        self.head_dim = source.shape.head_dim
        self.q, self.k, self.v, self.output = (Linear(source, at + part, tier) for part in ("q", "k", "v", "output"))
        has_norms = source.has(f"{at}q_norm")  # Qwen3
        self.q_norm = Norm(source, f"{at}q_norm") if has_norms else nn.Identity()
        self.k_norm = Norm(source, f"{at}k_norm") if has_norms else nn.Identity()

    def forward(self, x: Tensor, rotation: Tensor, place: Tensor) -> Tensor:
        n_tokens = x.shape[1]
        q, k, v = (part(x).view(1, n_tokens, -1, self.head_dim) for part in (self.q, self.k, self.v))
        mixed = operators.ring_attend(self.q_norm(q), self.k_norm(k), v, rotation, place, self.layer)
        return self.output(mixed.view(1, n_tokens, -1))


class Layer(nn.Module):
    def __init__(self, source: Source, layer: int, tier: Tier) -> None:
        super().__init__()
        at = f"blk.{layer}."
        self.attention_norm = Norm(source, f"{at}attn_norm")
        self.attention = Attention(source, layer, tier)
        self.ffn_norm = Norm(source, f"{at}ffn_norm")
        self.gate, self.up, self.down = (Linear(source, f"{at}ffn_{part}", tier) for part in ("gate", "up", "down"))

    def forward(self, x: Tensor, rotation: Tensor, place: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotation, place)
        normed = self.ffn_norm(x)
        return x + self.down(F.silu(self.gate(normed)) * self.up(normed))


class Decoder(nn.Module):
    """The whole model. The methods of a program are the modules below; they share its weights."""

    def __init__(self, source: Source, tier: Tier) -> None:
        super().__init__()
        shape = source.shape
        self.n_layers = shape.n_layers
        self.embedding = nn.Parameter(embedding_weight(source, tier), requires_grad=False)
        self.layers = nn.ModuleList(Layer(source, layer, tier) for layer in range(shape.n_layers))
        self.output_norm = Norm(source, "output_norm")
        self.head = Linear(source, "token_embd" if shape.tied else "output", tier)
        self.register_buffer("frequencies", torch.from_numpy(source.frequencies()), persistent=False)

    def embed(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.embedding)

    def run(self, states: Tensor, place: Tensor, first: int, last: int) -> Tensor:
        rotation = operators.rotation(states, place, self.frequencies)
        for layer in range(first, last):
            states = self.layers[layer](states, rotation, place)
        return states

    def logits(self, states: Tensor) -> Tensor:
        return self.head(self.output_norm(states))[0]


class Method(nn.Module):
    """Keeps the decoder under one name, so that all methods agree on the names of its weights."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder


class Forward(Method):
    """tokens [1, T], place [4], rows [R] -> logits [R, V]"""

    def forward(self, tokens: Tensor, place: Tensor, rows: Tensor) -> Tensor:
        decoder = self.decoder
        states = decoder.run(decoder.embed(tokens), place, 0, decoder.n_layers)
        return decoder.logits(states.index_select(1, rows))


class Split(Method):
    def __init__(self, decoder: Decoder, layer: int) -> None:
        super().__init__(decoder)
        self.layer = layer


class Front(Split):
    """tokens [1, T], place [4] -> states [1, T, hidden] after layers [0, layer)"""

    def forward(self, tokens: Tensor, place: Tensor) -> Tensor:
        return self.decoder.run(self.decoder.embed(tokens), place, 0, self.layer)


class ExitHead(Method):
    """states [1, 1, hidden] -> logits [1, V]"""

    def forward(self, states: Tensor) -> Tensor:
        return self.decoder.logits(states)


class Verify(Split):
    """states [1, T, hidden], place [4], rows [R] -> logits [R, V], through layers [layer, n_layers)"""

    def forward(self, states: Tensor, place: Tensor, rows: Tensor) -> Tensor:
        decoder = self.decoder
        states = decoder.run(states, place, self.layer, decoder.n_layers)
        return decoder.logits(states.index_select(1, rows))

"""The model that is taught to draft: a frozen Llama-like model in torch, on the weights as they are run.

The weights are those of the reference backend (a GGUF, dequantized), so a draft learns the distribution of the
quantized model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
import torch.nn.functional as F

from edgeinfer.backends.reference.weights import LayerWeights, WeightsShape, read_shape, read_weights
from edgeinfer.errors import ArtifactError
from edgeinfer.formats.artifact import check_artifact
from edgeinfer.formats.gguf_header import GgufHeader

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["GenerationCache", "TorchModel", "attend", "check_architecture", "feed_forward", "load"]


Attention: TypeAlias = "Callable[[Tensor, Tensor, Tensor], Tensor]"  # of q, k and v, RoPE applied


@dataclass(frozen=True, slots=True)
class Layer:
    """Matrices are [out, in]; q, k and v are stacked, and so are gate and up."""

    attn_norm: Tensor
    qkv: Tensor
    q_norm: Tensor | None
    k_norm: Tensor | None
    attn_output: Tensor
    ffn_norm: Tensor
    gate_up: Tensor
    ffn_down: Tensor


class GenerationCache:
    """Keys and values of `n_rows` conversations of up to `n_tokens`: [layers, 2, rows, KV heads, tokens, head_dim]."""

    def __init__(self, model: TorchModel, n_rows: int, n_tokens: int) -> None:
        shape = model.shape
        self.length = 0
        self.kv = torch.zeros(
            (shape.n_layers, 2, n_rows, shape.n_kv_heads, n_tokens, shape.head_dim),
            dtype=model.dtype,
            device=model.device,
        )


class TorchModel:
    """A frozen model. States are [B, T, hidden], logits [B, T, V]."""

    def __init__(
        self, shape: WeightsShape, embedding: Tensor, layers: Sequence[Layer], output_norm: Tensor, output: Tensor,
        frequencies: Tensor,
    ) -> None:  # fmt: skip
        self.shape = shape
        self.embedding = embedding
        self.layers = tuple(layers)
        self.output_norm = output_norm
        self.output = output
        self._frequencies = frequencies

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    @torch.no_grad()
    def states(self, tokens: Tensor, kept: frozenset[int]) -> dict[int, Tensor]:
        """The residual stream after each number of layers in `kept` (0 is the embedding), for `tokens` [B, T]."""
        x = self.embedding[tokens]
        found = {0: x} if 0 in kept else {}
        turn = self.turn(0, tokens.shape[1])
        for n_run, layer in enumerate(self.layers, 1):
            x = self._run(layer, x, turn, lambda q, k, v: attend(q, k, v, causal=True))
            if n_run in kept:
                found[n_run] = x
        return found

    @torch.no_grad()
    def step(self, tokens: Tensor, cache: GenerationCache) -> Tensor:
        """Logits [B, V] after one more token of each conversation, `tokens` [B]."""
        at, turn = cache.length, self.turn(cache.length, 1)
        x = self.embedding[tokens][:, None]
        for index, layer in enumerate(self.layers):

            def over_all(q: Tensor, k: Tensor, v: Tensor, kv: Tensor = cache.kv[index]) -> Tensor:
                kv[0, :, :, at], kv[1, :, :, at] = k[:, :, 0], v[:, :, 0]
                return attend(q, kv[0, :, :, : at + 1], kv[1, :, :, : at + 1], causal=False)

            x = self._run(layer, x, turn, over_all)
        cache.length += 1
        return self.logits(x[:, 0])

    def mixed(self) -> torch.autocast:
        """Products in the model's own 16 bits, where it has them; a draft's weights are float32."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def logits(self, states: Tensor) -> Tensor:
        return self.norm(states, self.output_norm) @ self.output.T

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self.shape.norm_eps)

    def turn(self, start: int, n: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine of RoPE (arXiv 2104.09864) for positions `start` to `start + n`: [n, head_dim / 2]."""
        angles = torch.arange(start, start + n, device=self.device)[:, None] * self._frequencies
        return angles.cos().to(self.dtype), angles.sin().to(self.dtype)

    def rotated(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        """x: [B, H, T, head_dim]."""
        cos, sin = (part.to(x.dtype) for part in turn)
        pairs = x.unflatten(-1, (-1, 2) if self.shape.interleaved else (2, -1))
        a, b = pairs.unbind(-1 if self.shape.interleaved else -2)
        turned = torch.stack((a * cos - b * sin, a * sin + b * cos), -1 if self.shape.interleaved else -2)
        return turned.flatten(-2)

    def heads(self, x: Tensor, n: int) -> Tensor:
        """[B, T, n * head_dim] as [B, n, T, head_dim]."""
        return x.unflatten(-1, (n, self.shape.head_dim)).transpose(1, 2)

    def _run(self, layer: Layer, x: Tensor, turn: tuple[Tensor, Tensor], attention: Attention) -> Tensor:
        n_q, n_kv = self.shape.n_heads, self.shape.n_kv_heads
        qkv = self.heads(self.norm(x, layer.attn_norm) @ layer.qkv.T, n_q + 2 * n_kv)
        q, k, v = qkv.split((n_q, n_kv, n_kv), 1)
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = self.norm(q, layer.q_norm), self.norm(k, layer.k_norm)
        seen = attention(self.rotated(q, turn), self.rotated(k, turn), v)
        x = x + seen.transpose(1, 2).flatten(2) @ layer.attn_output.T
        return x + feed_forward(self.norm(x, layer.ffn_norm), layer.gate_up, layer.ffn_down)


def attend(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, mask: Tensor | None = None) -> Tensor:
    """Grouped-query attention: q [B, H, T, D], k, v [B, KV heads, S, D]; `mask` [T, S] is True where a query sees."""
    if mask is not None:  # torch's fused kernels take a mask, or fewer K/V heads than queries, not both
        k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], 1) for part in (k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=mask is None)


def feed_forward(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    gate, up = (x @ gate_up.T).chunk(2, -1)
    return (F.silu(gate) * up) @ down.T


def check_architecture(header: GgufHeader, name: str) -> None:
    """Raises ArtifactError for a model that the reference does not compute, and so cannot be taught."""
    read_shape(header, name)


def load(path: Path, *, device: str, dtype: torch.dtype) -> TorchModel:
    """The model of a GGUF file. Raises ArtifactError for an architecture that the reference does not compute."""
    header = check_artifact(path)
    if not isinstance(header, GgufHeader):
        raise ArtifactError(f"{path} is a folder; a draft is taught to one .gguf file", hint="name the .gguf file")
    shape = read_shape(header, str(path))
    weights = read_weights(header, path, shape)

    def put(values: object) -> Tensor:
        return torch.tensor(values, device=device, dtype=dtype)

    def layer_of(layer: LayerWeights) -> Layer:
        return Layer(
            put(layer.attn_norm), put(layer.qkv),
            None if layer.q_norm is None else put(layer.q_norm),
            None if layer.k_norm is None else put(layer.k_norm),
            put(layer.attn_output), put(layer.ffn_norm), put(layer.gate_up), put(layer.ffn_down),
        )  # fmt: skip

    embedding = put(weights.embedding)
    output = embedding if weights.output is weights.embedding else put(weights.output)
    frequencies = torch.as_tensor(weights.frequencies, dtype=torch.float32, device=device)
    return TorchModel(
        shape, embedding, [layer_of(one) for one in weights.layers], put(weights.output_norm), output, frequencies
    )

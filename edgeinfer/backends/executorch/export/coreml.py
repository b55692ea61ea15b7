"""Programs for Core ML, in float16: K and V are inputs and outputs of every method. They are lowered here, never run.

A Core ML state belongs to one method, and shapes are fixed: so the host owns K and V, and there is one method for each
number of tokens in STEPS. A method sees the slots that its mask allows. In which slot a position lies does not matter,
because keys are rotated for their positions before they are stored. A round that is rolled back is not stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import ExportedProgram, export

from edgeinfer.backends.executorch.export.decoder import Decoder, Layer, Norm
from edgeinfer.backends.executorch.export.program import Exported
from edgeinfer.backends.executorch.export.quantize import Tier
from edgeinfer.backends.executorch.export.quiet import quiet
from edgeinfer.backends.executorch.export.signature import method_of
from edgeinfer.backends.executorch.export.source import Source
from edgeinfer.formats.draft_file import DraftFile

STEPS: Final = (1, 8, 128)  # tokens of a method
MAX_SLOTS: Final = 2048


class CoreMlForward(nn.Module):
    """One step of the whole model.

    tokens [1, T] int32, rotation [2, T, head_dim / 2] (cosines, sines), mask [T, slots + T] added to the scores,
    keys and values [layers, slots, kv_heads, head_dim] -> logits [T, V], new keys and values [layers, T, kv_heads,
    head_dim]
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, tokens: Tensor, rotation: Tensor, mask: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        decoder = self.decoder
        states = decoder.embed(tokens)
        new_keys, new_values = [], []
        for index, layer in enumerate(decoder.layers):
            states, key, value = _layer(layer, states, rotation, mask, keys[index], values[index])
            new_keys.append(key)
            new_values.append(value)
        logits = decoder.head(_normed(decoder.output_norm, states))[0]
        return logits, torch.stack(new_keys), torch.stack(new_values)


def _layer(
    layer: Layer, x: Tensor, rotation: Tensor, mask: Tensor, keys: Tensor, values: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    attention, n_tokens = layer.attention, x.shape[1]
    normed = _normed(layer.attention_norm, x)
    q, k, v = (part(normed).view(n_tokens, -1, attention.head_dim) for part in (attention.q, attention.k, attention.v))
    q, k = _turned(_normed(attention.q_norm, q), rotation), _turned(_normed(attention.k_norm, k), rotation)
    mixed = _attended(q, torch.cat([keys, k]), torch.cat([values, v]), mask)
    x = x + attention.output(mixed.reshape(1, n_tokens, -1))
    normed = _normed(layer.ffn_norm, x)
    return x + layer.down(F.silu(layer.gate(normed)) * layer.up(normed)), k, v


def _attended(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """q [T, heads, head_dim], keys and values [S, kv_heads, head_dim], mask [T, S] -> [T, heads, head_dim]"""
    n_groups = q.shape[1] // keys.shape[1]
    q, keys, values = (each.transpose(0, 1) for each in (q, keys, values))
    keys, values = (each.repeat_interleave(n_groups, 0) for each in (keys, values))
    scores = q @ keys.transpose(1, 2) * q.shape[-1] ** -0.5 + mask
    return (scores.softmax(-1) @ values).transpose(0, 1)


def _normed(norm: Norm | nn.Identity, x: Tensor) -> Tensor:
    """RMSNorm by `mean`: Core ML does not take the linear layer that XNNPACK needs."""
    if isinstance(norm, nn.Identity):
        return x
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + norm.eps) * norm.weight


def _turned(x: Tensor, rotation: Tensor) -> Tensor:
    """RoPE over the two halves of a head; `x` [T, heads, head_dim]."""
    cos, sin = rotation[0][:, None], rotation[1][:, None]
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def exported(decoder: Decoder, source: Source, n_slots: int) -> dict[str, ExportedProgram]:
    shape, found = source.shape, {}
    for n_tokens in STEPS:
        caches = torch.zeros(shape.n_layers, n_slots, shape.n_kv_heads, shape.head_dim)
        inputs = (
            torch.zeros(1, n_tokens, dtype=torch.int32),
            torch.zeros(2, n_tokens, shape.head_dim // 2),
            torch.zeros(n_tokens, n_slots + n_tokens),
            caches,
            caches.clone(),
        )
        found[f"forward_{n_tokens}"] = export(CoreMlForward(decoder), inputs, strict=False)
    return found


def write_program(
    source: Source, tier: Tier, path: Path, sample: Sequence[int], taught: DraftFile | None = None
) -> Exported:
    """See program.write_program. For iOS 18 and later; nothing is rounded for `sample`, and nothing drafts."""
    del sample, taught
    import coremltools
    from executorch.backends.apple.coreml.compiler import CoreMLBackend
    from executorch.backends.apple.coreml.partition import CoreMLPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    specs = CoreMLBackend.generate_compile_specs(
        minimum_deployment_target=coremltools.target.iOS18,
        compute_precision=coremltools.precision.FLOAT16,
        compute_unit=coremltools.ComputeUnit.ALL,
        model_type=CoreMLBackend.MODEL_TYPE.MODEL,
    )
    decoder = Decoder(source, tier).eval()
    with torch.no_grad(), quiet():
        methods = exported(decoder, source, min(source.shape.limit, MAX_SLOTS))
        lowered = to_edge_transform_and_lower(
            methods,
            partitioner={name: [CoreMLPartitioner(compile_specs=specs)] for name in methods},
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
        )
        program = lowered.to_executorch()
    unfinished = path.with_name(path.name + ".part")
    with unfinished.open("wb") as file:
        program.write_to_file(file)
    unfinished.replace(path)
    calls = [node for name in methods for node in program.exported_program(name).graph.nodes]
    return Exported(
        methods={name: method_of(method) for name, method in methods.items()},
        operators={},
        n_delegates=sum("delegate" in str(node.target) for node in calls if node.op == "call_function"),
        exit_layer=0,
    )

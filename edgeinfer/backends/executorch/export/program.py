"""Exports and lowers the methods of a decoder, and writes them as one file.

With an exit layer the file holds `front`, `exit_head` and `verify`: each layer is lowered once, and the engine makes
drafts, verifies and plain forwards of them. Without one it holds `forward`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import executorch.kernels.quantized  # noqa: F401  # registers the embedding of 8-bit weights
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
from executorch.exir.passes import MemoryPlanningPass
from torch.export import Dim, ExportedProgram, export

from edgeinfer.backends.executorch.export.calibrate import calibrate
from edgeinfer.backends.executorch.export.decoder import Decoder, ExitHead, Forward, Front, Verify
from edgeinfer.backends.executorch.export.quantize import Tier
from edgeinfer.backends.executorch.export.quiet import quiet
from edgeinfer.backends.executorch.export.shape import DecoderShape
from edgeinfer.backends.executorch.export.signature import method_of
from edgeinfer.backends.executorch.export.source import Source
from edgeinfer.formats.manifest import Method

PROGRAM_VERSION = 1
MAX_TOKENS = 128  # of one forward
MAX_ROWS = 16  # of logits that one forward gives


@dataclass(frozen=True, slots=True)
class Exported:
    """What the written program holds, for the manifest and for tests."""

    methods: Mapping[str, Method]
    operators: Mapping[str, str]  # name to schema, of those that the runtime must have
    n_delegates: int
    exit_layer: int  # 0: no method drafts


def write_program(source: Source, tier: Tier, path: Path, sample: Sequence[int]) -> Exported:
    """Lower the model and write it to `path`. A file that is there stays until the new one is whole.

    `sample`: tokens of a text, to round for.
    """
    torch.manual_seed(0)
    decoder = Decoder(source, tier).eval()
    with torch.no_grad(), quiet():
        calibrate(decoder, source, sample)
        methods = _exported(decoder, source.shape)
        signatures = {name: method_of(method) for name, method in methods.items()}
        lowered = to_edge_transform_and_lower(
            methods,
            partitioner={name: [XnnpackPartitioner()] for name in methods},
            constant_methods=_constants(source.shape),
            compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
        )
        program = lowered.to_executorch(
            ExecutorchBackendConfig(
                do_quant_fusion_and_const_prop=tier != "fp32",
                memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False),
                extract_delegate_segments=True,
            )
        )
    unfinished = path.with_name(path.name + ".part")
    with unfinished.open("wb") as file:
        program.write_to_file(file)
    unfinished.replace(path)
    graphs = [program.exported_program(name) for name in methods]
    calls = [node.target for graph in graphs for node in graph.graph.nodes if node.op == "call_function"]
    return Exported(
        methods=signatures,
        operators={str(call): str(call._schema) for call in calls if str(call).endswith((".out", "_out"))},
        n_delegates=sum("delegate" in str(call) for call in calls),
        exit_layer=source.shape.exit_layer or 0,
    )


def _exported(decoder: Decoder, shape: DecoderShape) -> dict[str, ExportedProgram]:
    n_tokens, n_rows = Dim("n_tokens", min=1, max=MAX_TOKENS), Dim("n_rows", min=1, max=MAX_ROWS)
    tokens, rows = torch.zeros(1, 5, dtype=torch.long), torch.tensor([2, 3, 4])
    place = torch.tensor([0, 512, 8, 64])
    if not shape.exit_layer:
        forward = export(
            Forward(decoder), (tokens, place, rows), dynamic_shapes=({1: n_tokens}, None, {0: n_rows}), strict=False
        )
        return {"forward": forward}
    states = torch.zeros(1, 5, shape.hidden)
    return {
        "front": export(Front(decoder), (tokens, place), dynamic_shapes=({1: n_tokens}, None), strict=False),
        "exit_head": export(ExitHead(decoder), (states[:, :1],), strict=False),
        "verify": export(
            Verify(decoder), (states, place, rows), dynamic_shapes=({1: n_tokens}, None, {0: n_rows}), strict=False
        ),
    }


def _constants(shape: DecoderShape) -> dict[str, int]:
    """What the engine must know before it runs a method. Each becomes a method that returns a number."""
    return {
        "program_version": PROGRAM_VERSION,
        "n_layers": shape.n_layers,
        "n_kv_heads": shape.n_kv_heads,
        "head_dim": shape.head_dim,
        "hidden": shape.hidden,
        "n_vocab": shape.n_vocab,
        "limit": shape.limit,
        "exit_layer": shape.exit_layer or 0,
        "max_tokens": MAX_TOKENS,
        "max_rows": MAX_ROWS,
    }

"""Exports and lowers the methods of a decoder, and writes them as one file.

With an exit layer the file holds `front`, `exit_head` and `verify`: each layer is lowered once, and the engine makes
drafts, verifies and plain forwards of them. Without one it holds `forward`. With a taught draft:

    exit       `front`, `verify`, and `draft_layer` on the states of `front`
    feature    `forward`, which also gives the tapped states; `draft_known`, `draft_input`, `draft_layer`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from edgeinfer.backends.executorch.export.taught import Draft, DraftInput, DraftKnown, DraftLayer, TappedForward
from edgeinfer.formats.draft_file import DraftFile
from edgeinfer.formats.manifest import Method

PROGRAM_VERSION = 1
DRAFTED_VERSION = 2  # of a program with a taught draft
MAX_TOKENS = 128  # of one forward
MAX_ROWS = 16  # of logits that one forward gives


@dataclass(frozen=True, slots=True)
class Exported:
    """What the written program holds, for the manifest and for tests."""

    methods: Mapping[str, Method]
    operators: Mapping[str, str]  # name to schema, of those that the runtime must have
    n_delegates: int
    exit_layer: int  # 0: the model does not draft by itself


def write_program(
    source: Source, tier: Tier, path: Path, sample: Sequence[int], taught: DraftFile | None = None
) -> Exported:
    """Lower the model and write it to `path`. A file that is there stays until the new one is whole.

    `sample`: tokens of a text, to round for. With the draft `taught`, the model's own exit is left out.
    """
    torch.manual_seed(0)
    decoder = Decoder(source, tier).eval()
    with torch.no_grad(), quiet():
        calibrate(decoder, source, sample)
        methods = _of_model(decoder, source.shape) if taught is None else _drafted(decoder, source, taught, tier)
        signatures = {name: method_of(method) for name, method in methods.items()}
        lowered = to_edge_transform_and_lower(
            methods,
            partitioner={name: [XnnpackPartitioner()] for name in methods},
            constant_methods=_constants(source.shape, taught),
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
        exit_layer=0 if taught else source.shape.exit_layer or 0,
    )


@dataclass(frozen=True, slots=True)
class _Input:
    """An example of an input, and which of its sizes may change."""

    example: torch.Tensor
    sizes: Mapping[int, Any] | None = None


_N_TOKENS = {1: Dim("n_tokens", min=1, max=MAX_TOKENS)}
_TOKENS = _Input(torch.zeros(1, 5, dtype=torch.long), _N_TOKENS)
_PLACE = _Input(torch.tensor([0, 512, 8, 64]))
_ROWS = _Input(torch.tensor([2, 3, 4]), {0: Dim("n_rows", min=1, max=MAX_ROWS)})


def _states(width: int) -> _Input:
    return _Input(torch.zeros(1, 5, width), _N_TOKENS)


def _method(module: torch.nn.Module, *inputs: _Input) -> ExportedProgram:
    examples, sizes = tuple(one.example for one in inputs), tuple(one.sizes for one in inputs)
    return export(module, examples, dynamic_shapes=sizes, strict=False)


def _of_model(decoder: Decoder, shape: DecoderShape) -> dict[str, ExportedProgram]:
    if not shape.exit_layer:
        return {"forward": _method(Forward(decoder), _TOKENS, _PLACE, _ROWS)}
    exit_head = _method(ExitHead(decoder), _Input(torch.zeros(1, 1, shape.hidden)))
    return {"exit_head": exit_head, **_split(decoder, shape, shape.exit_layer)}


def _split(decoder: Decoder, shape: DecoderShape, layer: int) -> dict[str, ExportedProgram]:
    return {
        "front": _method(Front(decoder, layer), _TOKENS, _PLACE),
        "verify": _method(Verify(decoder, layer), _states(shape.hidden), _PLACE, _ROWS),
    }


def _drafted(decoder: Decoder, source: Source, file: DraftFile, tier: Tier) -> dict[str, ExportedProgram]:
    draft, shape = Draft(file, source, decoder, tier).eval(), source.shape
    layer = {"draft_layer": _method(DraftLayer(draft), _states(shape.hidden), _PLACE, _ROWS)}
    if file.kind == "exit":
        return _split(decoder, shape, file.exit_layer) | layer
    return layer | {
        "forward": _method(TappedForward(decoder, file.taps), _TOKENS, _PLACE, _ROWS),
        "draft_known": _method(DraftKnown(draft), _states(len(file.taps) * shape.hidden)),
        "draft_input": _method(DraftInput(draft), _TOKENS, _states(shape.hidden)),
    }


def _constants(shape: DecoderShape, taught: DraftFile | None) -> dict[str, int]:
    """What the engine must know before it runs a method. Each becomes a method that returns a number."""
    constants = {
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
    if taught is None:
        return constants
    return constants | {
        "program_version": DRAFTED_VERSION,
        "exit_layer": 0,
        "draft_exit_layer": taught.exit_layer,
        "draft_n_taps": len(taught.taps),
        "draft_n_ranked": len(taught.ranked_tokens),
    }

"""Types and shapes of an exported method, for the manifest."""

from __future__ import annotations

from typing import Final

import torch
from torch.export import ExportedProgram

from edgeinfer.formats.manifest import Method

_DIMENSIONS: Final = ("n_tokens", "n_rows")  # in the order in which the inputs of a method have them


def method_of(program: ExportedProgram) -> Method:
    names: dict[str, str] = {}

    def dimension(size: int | torch.SymInt) -> str:
        if isinstance(size, int):
            return str(size)
        if str(size) not in names:
            names[str(size)] = _DIMENSIONS[len(names)]
        return names[str(size)]

    def described(name: str) -> str:
        value: torch.Tensor = values[name]
        return f"{str(value.dtype).removeprefix('torch.')}[{', '.join(map(dimension, value.shape))}]"

    values = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    signature = program.graph_signature
    inputs = tuple(described(str(name)) for name in signature.user_inputs)
    return Method(inputs, tuple(described(str(name)) for name in signature.user_outputs))

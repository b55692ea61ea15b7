"""The two operators of the engine, with their shapes for torch.export. Their kernels are in mobile/runtime/engine.

    rotation(states, place, frequencies)            [2, T, head_dim / 2] cosine and sine of RoPE
    ring_attend(q, k, v, rotation, place, layer)    [1, T, heads, head_dim]

`place` is int64 [4]: position of the first token, window, sink, block (see edgeinfer.window). `ring_attend` turns q
and k, writes k and v into the ring of the conversation that the engine runs, and attends. The rings belong to the
engine, so one program serves any window and any number of conversations.
"""

from __future__ import annotations

import torch

NAMESPACE = "edgeinfer"
_SCHEMAS = {
    "rotation": "Tensor states, Tensor place, Tensor frequencies",
    "ring_attend": "Tensor q, Tensor k, Tensor v, Tensor rotation, Tensor place, int layer",
}
_library = torch.library.Library(NAMESPACE, "DEF")
for _name, _arguments in _SCHEMAS.items():
    _library.define(f"{_name}({_arguments}) -> Tensor")
    _library.define(f"{_name}.out({_arguments}, *, Tensor(a!) out) -> Tensor(a!)")


def _rotation(states: torch.Tensor, place: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    del place
    return states.new_empty((2, states.shape[1], frequencies.shape[0]))


def _ring_attend(q: torch.Tensor, *others: object) -> torch.Tensor:
    del others
    return torch.empty_like(q)


_library.impl("rotation", _rotation, "Meta")
_library.impl("ring_attend", _ring_attend, "Meta")
_library.impl("rotation.out", lambda *_, out: out, "Meta")
_library.impl("ring_attend.out", lambda *_, out: out, "Meta")

rotation = torch.ops.edgeinfer.rotation
ring_attend = torch.ops.edgeinfer.ring_attend

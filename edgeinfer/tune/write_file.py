"""Writes a taught draft as the file that `formats/draft_file.py` reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save

from edgeinfer.formats.draft_file import FORMAT, DraftShape
from edgeinfer.formats.gguf_header import GgufHeader
from edgeinfer.tune.drafts import Draft, ExitDraft, FeatureDraft
from edgeinfer.tune.torch_model import TorchModel

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["draft_shape", "tensor_digest", "write_draft"]


def draft_shape(model: TorchModel, architecture: str) -> DraftShape:
    shape = model.shape
    return DraftShape(
        architecture, shape.n_layers, shape.hidden, shape.n_heads, shape.n_kv_heads, shape.head_dim, shape.n_ffn,
        shape.n_vocab,
    )  # fmt: skip


def tensor_digest(path: Path, header: GgufHeader) -> str:
    """sha256 of a GGUF's tensor data, which does not change when metadata are edited."""
    start = min(tensor.offset for tensor in header.tensors)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def write_draft(
    draft: Draft,
    path: Path,
    *,
    shape: DraftShape,
    norm_eps: float,
    base_model: str,
    taught_on: str,
    license: str,
    agreement: Sequence[float],
    by_vocabulary: Sequence[tuple[int, Sequence[float]]],
    ranked: Tensor,
) -> None:
    """Write to a temporary name beside `path`, then rename: a draft file is whole or is not there."""
    meta = {name: value if isinstance(value, str) else json.dumps(value) for name, value in asdict(shape).items()}
    meta |= {
        "format": FORMAT,
        "kind": draft.kind,
        "norm_eps": json.dumps(norm_eps),
        "base": base_model,
        "taught_on": taught_on,
        "license": license,
        "agreement": json.dumps(_rounded(agreement)),
        "by_vocabulary": json.dumps([[n, _rounded(shares)] for n, shares in by_vocabulary]),
    }
    if isinstance(draft, ExitDraft):
        meta["exit_layer"] = json.dumps(draft.exit_layer)
    if isinstance(draft, FeatureDraft):
        meta["taps"] = json.dumps(draft.taps)
    tensors = {name: tensor.to("cpu", torch.float16).contiguous() for name, tensor in draft.tensors().items()}
    tensors["ranked_tokens"] = ranked.to("cpu", torch.int32).contiguous()
    part = path.with_name(path.name + ".part")
    part.write_bytes(save(tensors, metadata=meta))
    part.replace(path)


def _rounded(shares: Sequence[float]) -> list[float]:
    return [round(share, 4) for share in shares]

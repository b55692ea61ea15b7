"""A taught draft beside a model: `NAME.draft.safetensors`, one Llama layer that guesses the model's next tokens.

Two kinds. `exit`: the layer runs on the model's own state after `exit_layer` layers. `feature`: it runs on

    known = taps [D, nD] @ concat(rms(s) for s in the tapped states of the position before)
    input = join [D, 2D] @ concat(token_norm(embedding of the newest token), feature_norm(known))

where rms has no weight and the epsilon TAP_EPS. Deeper drafts take the layer's own output in place of `known`. Both
kinds end in `output_norm` and the rows of the model's own head that `ranked_tokens` names. Matrices are [out, in]; the
layer has the model's own widths and RoPE.

The file is data from a stranger: everything here is checked against the header before an engine sees a tensor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from edgeinfer.errors import ArtifactError
from edgeinfer.formats.safetensors_header import SafetensorsHeader, read_header
from edgeinfer.shape import ModelShape

__all__ = [
    "FORMAT",
    "SUFFIX",
    "TAP_EPS",
    "DraftFile",
    "DraftShape",
    "is_draft_file",
    "read_draft_file",
    "read_draft_for",
    "shape_of",
]

SUFFIX: Final = ".draft.safetensors"
FORMAT: Final = "1"
TAP_EPS: Final = 2.0**-7
_MAX_NUMBER: Final = 1 << 20
_MAX_DEPTHS: Final = 16
_DTYPES: Final[Mapping[str, type[np.generic]]] = {"F16": np.float16, "F32": np.float32}
_HINT: Final = "teach a new one: `edgeinfer tune NAME`"


@dataclass(frozen=True, slots=True)
class DraftShape:
    """Widths of the layer, which are those of its model, and values that identify the model."""

    architecture: str
    n_layers: int  # of the model
    hidden: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    n_ffn: int
    n_vocab: int


@dataclass(frozen=True, slots=True)
class DraftFile:
    """A checked draft file.

    `agreement[d]` is the share of drafts d + 1 that were right when all before them were; it may be empty.
    `by_vocabulary` has the same for the first n ranked tokens alone, smallest n first; it may be empty.
    """

    path: Path
    kind: Literal["exit", "feature"]
    exit_layer: int  # 0 for a feature draft
    taps: tuple[int, ...]  # numbers of layers run; empty for an exit draft
    shape: DraftShape
    norm_eps: float
    base_model: str
    taught_on: str  # sha256 of the tensor data that it was taught on
    license: str
    agreement: tuple[float, ...]
    by_vocabulary: tuple[tuple[int, tuple[float, ...]], ...]
    ranked_tokens: npt.NDArray[np.int32]  # [n], most frequent first, no id twice
    header: SafetensorsHeader

    def refusal(self, model: DraftShape) -> str:
        """Why this draft is not for a model of this shape; "" when it is."""
        wrong = [
            f"{field.name} {getattr(self.shape, field.name)}, the model has {getattr(model, field.name)}"
            for field in fields(DraftShape)
            if getattr(self.shape, field.name) != getattr(model, field.name)
        ]
        return f"it was taught to {self.base_model}: {'; '.join(wrong)}" if wrong else ""

    def with_vocabulary(self, n_ranked: int) -> DraftFile:
        """The same draft, limited to its first `n_ranked` tokens."""
        return replace(self, ranked_tokens=self.ranked_tokens[:n_ranked])

    def tensor(self, name: str) -> npt.NDArray[np.float32]:
        """A tensor in float32, in its own shape. Raises KeyError for a name that this kind does not have."""
        info = self.header.tensors[f"{name}.weight"]
        raw = np.memmap(self.path, _DTYPES[info.dtype], "r", info.offset, info.shape)
        return np.asarray(raw, np.float32)


def shape_of(model: ModelShape) -> DraftShape:
    """The shape that a draft for this model must have. The widths are those of its first layers."""
    first = model.kv[0]
    return DraftShape(
        model.architecture, model.n_layers, model.hidden, model.n_heads, first.n_kv_heads, first.head_dim, model.n_ffn,
        model.n_vocab,
    )  # fmt: skip


def read_draft_for(path: Path, model: ModelShape) -> DraftFile:
    """Read, check, and compare with the model. Raises ArtifactError, naming the model that it is for."""
    draft = read_draft_file(path)
    refusal = draft.refusal(shape_of(model))
    if refusal:
        raise ArtifactError(f"{path.name} is a draft for another model: {refusal}", hint=_HINT)
    return draft


def is_draft_file(path: Path) -> bool:
    return path.name.endswith(SUFFIX)


def read_draft_file(path: Path) -> DraftFile:
    """Read and check. Raises ArtifactError, naming what is missing, of another shape, or out of range."""
    header = read_header(path)
    meta = _Metadata(path, header.metadata)
    if meta.text("format") != FORMAT:
        raise _bad(path, f"it is of draft format {meta.text('format')!r}; this program reads {FORMAT!r}")
    kind = meta.text("kind")
    if kind not in ("exit", "feature"):
        raise _bad(path, f"its kind is {kind[:40]!r}; exit and feature are known")
    shape = DraftShape(
        architecture=meta.text("architecture"),
        **{
            name: meta.number(name)
            for name in ("n_layers", "hidden", "n_heads", "n_kv_heads", "head_dim", "n_ffn", "n_vocab")
        },
    )
    exit_layer = meta.number("exit_layer", shape.n_layers - 1) if kind == "exit" else 0
    taps = meta.numbers("taps", shape.n_layers) if kind == "feature" else ()
    _check_tensors(path, header, _tensors_of(kind, shape, len(taps)))
    return DraftFile(
        path=path,
        kind="exit" if kind == "exit" else "feature",
        exit_layer=exit_layer,
        taps=taps,
        shape=shape,
        norm_eps=meta.share("norm_eps"),
        base_model=meta.text("base"),
        taught_on=meta.text("taught_on"),
        license=meta.text("license"),
        agreement=meta.shares("agreement"),
        by_vocabulary=meta.by_vocabulary(),
        ranked_tokens=_ranked(path, header, shape.n_vocab),
        header=header,
    )


class _Metadata:
    """The texts of the header, converted to the right types."""

    def __init__(self, path: Path, values: Mapping[str, str]) -> None:
        self._path, self._values = path, values

    def text(self, name: str) -> str:
        value = self._values.get(name)
        if value is None or not value.isprintable() or len(value) > 200:
            raise _bad(self._path, f"its header has no usable `{name}`")
        return value

    def number(self, name: str, most: int = _MAX_NUMBER) -> int:
        return self._whole(name, self._json(name), most)

    def numbers(self, name: str, most: int) -> tuple[int, ...]:
        """Rising whole numbers from 1 to `most`."""
        found = self._json(name)
        if not isinstance(found, list) or not 0 < len(found) <= 8:
            raise _bad(self._path, f"its `{name}` is not a list of 1 to 8 numbers")
        numbers = tuple(self._whole(name, one, most) for one in found)
        if list(numbers) != sorted(set(numbers)):
            raise _bad(self._path, f"its `{name}` must rise: {list(numbers)}")
        return numbers

    def share(self, name: str) -> float:
        return self._fraction(name, self._json(name))

    def shares(self, name: str) -> tuple[float, ...]:
        return self._shares(name, self._json(name))

    def by_vocabulary(self) -> tuple[tuple[int, tuple[float, ...]], ...]:
        """[[n, [agreement by depth]], ...], which files of before have not."""
        name = "by_vocabulary"
        found = self._json(name) if name in self._values else []
        if (
            not isinstance(found, list)
            or len(found) > _MAX_DEPTHS
            or not all(isinstance(one, list) and len(one) == 2 for one in found)
        ):
            raise _bad(self._path, f"its `{name}` is not a list of at most {_MAX_DEPTHS} pairs")
        pairs = tuple((self._whole(name, n, _MAX_NUMBER), self._shares(name, shares)) for n, shares in found)
        if [n for n, _ in pairs] != sorted({n for n, _ in pairs}):
            raise _bad(self._path, f"its `{name}` must rise: {[n for n, _ in pairs]}")
        return pairs

    def _shares(self, name: str, found: object) -> tuple[float, ...]:
        if not isinstance(found, list) or len(found) > _MAX_DEPTHS:
            raise _bad(self._path, f"its `{name}` is not a list of at most {_MAX_DEPTHS} numbers")
        return tuple(self._fraction(name, one) for one in found)

    def _json(self, name: str) -> Any:
        try:
            return json.loads(self.text(name))
        except (ValueError, RecursionError):
            raise _bad(self._path, f"its `{name}` is {self.text(name)[:40]!r}") from None

    def _whole(self, name: str, value: object, most: int) -> int:
        if type(value) is not int or not 0 < value <= most:
            raise _bad(self._path, f"its `{name}` is {value!r:.40}; 1 to {most} is possible")
        return value

    def _fraction(self, name: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise _bad(self._path, f"its `{name}` is {value!r:.40}; 0 to 1 is possible")
        return float(value)


def _tensors_of(kind: str, shape: DraftShape, n_taps: int) -> dict[str, tuple[int, ...]]:
    inner, kv, hidden, ffn = (
        shape.n_heads * shape.head_dim,
        shape.n_kv_heads * shape.head_dim,
        shape.hidden,
        shape.n_ffn,
    )
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm": (hidden,), "attn_q": (inner, hidden), "attn_k": (kv, hidden), "attn_v": (kv, hidden),
        "attn_output": (hidden, inner), "ffn_norm": (hidden,), "ffn_gate": (ffn, hidden), "ffn_up": (ffn, hidden),
        "ffn_down": (hidden, ffn), "output_norm": (hidden,),
    }  # fmt: skip
    if kind == "exit":
        return layer
    return layer | {
        "token_norm": (hidden,), "feature_norm": (hidden,), "join": (hidden, 2 * hidden),
        "taps": (hidden, n_taps * hidden),
    }  # fmt: skip


def _check_tensors(path: Path, header: SafetensorsHeader, wanted: Mapping[str, tuple[int, ...]]) -> None:
    names = {f"{name}.weight" for name in wanted} | {"ranked_tokens"}
    if names != set(header.tensors):
        odd = sorted(names ^ set(header.tensors))
        raise _bad(path, f"the tensor {odd[0][:60]!r} is {'missing' if odd[0] in names else 'not of this kind'}")
    for name, dims in wanted.items():
        tensor = header.tensors[f"{name}.weight"]
        if tensor.shape != dims or tensor.dtype not in _DTYPES:
            raise _bad(path, f"the tensor {name} is {tensor.dtype} {list(tensor.shape)}; {list(dims)} is needed")


def _ranked(path: Path, header: SafetensorsHeader, n_vocab: int) -> npt.NDArray[np.int32]:
    info = header.tensors["ranked_tokens"]
    if info.dtype != "I32" or len(info.shape) != 1 or not 0 < info.shape[0] <= n_vocab:
        raise _bad(path, f"ranked_tokens is {info.dtype} {list(info.shape)}; 1 to {n_vocab} I32 ids are possible")
    ids = np.array(np.memmap(path, np.int32, "r", info.offset, info.shape))
    if ids.min() < 0 or ids.max() >= n_vocab or len(np.unique(ids)) != len(ids):
        raise _bad(path, f"ranked_tokens must name each token once, from 0 to {n_vocab - 1}")
    return ids


def _bad(path: Path, what: str) -> ArtifactError:
    return ArtifactError(f"{path.name} is not a usable draft: {what}", hint=_HINT)

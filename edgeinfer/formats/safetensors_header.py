"""A safetensors header, and a model folder of them, checked before an engine maps them.

The layout is that of the safetensors README (0.8): eight bytes of length, a JSON object, then the data without holes.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeinfer.errors import ArtifactError
from edgeinfer.formats.paths import is_pickle_name, safe_join
from edgeinfer.named_files import open_file

__all__ = ["SafetensorsFolder", "SafetensorsHeader", "SafetensorsTensor", "check_folder", "read_header"]

MAX_HEADER_BYTES = 4 << 20  # JSON grows about thirtyfold in memory
MAX_JSON_BYTES = 64 << 20  # an index names each tensor: that of the largest models has 9 MB
DTYPE_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    "F4": 4,
}
_INDEX = "model.safetensors.index.json"
_HINT = "the file is damaged or was made to harm; download it again from a source that you trust"
_FOLDER_HINT = "a model folder holds config.json, .safetensors files and their tokenizer, all readable"


@dataclass(frozen=True, slots=True)
class SafetensorsTensor:
    """`offset` counts from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    metadata: Mapping[str, str]
    tensors: Mapping[str, SafetensorsTensor]
    file_bytes: int


@dataclass(frozen=True, slots=True)
class SafetensorsFolder:
    """A checked folder: its `config.json`, and the header of each weight file by name."""

    path: Path
    config: Mapping[str, Any]
    files: Mapping[str, SafetensorsHeader]

    @property
    def n_bytes(self) -> int:
        return sum(header.file_bytes for header in self.files.values())


def read_header(path: Path) -> SafetensorsHeader:
    """The header of the safetensors file at `path`. Raises ArtifactError."""
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            raw = file.read(8)
            if len(raw) < 8:
                raise _bad(path, f"the file has {size} bytes; a header needs at least 8")
            length = struct.unpack("<Q", raw)[0]
            if length > min(MAX_HEADER_BYTES, size - 8):
                raise _bad(path, f"the header is said to have {length} bytes, of a file of {size} bytes")
            text = file.read(length)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror or error}", hint=_FOLDER_HINT) from error
    fields = _json_object(path, text)
    metadata = fields.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _bad(path, "__metadata__ is not a table of texts")
    tensors = {name: _tensor(path, name, field, 8 + length) for name, field in fields.items()}
    _check_layout(path, tensors, 8 + length, size)
    return SafetensorsHeader(metadata, tensors, size)


def check_folder(folder: Path) -> SafetensorsFolder:
    """A model folder in the form of Hugging Face: `config.json` and `*.safetensors`. Raises ArtifactError."""
    config = _read_json(folder / "config.json")
    if "model_file" in config:
        raise ArtifactError(
            f"{folder}: config.json names a Python file to run ({str(config['model_file'])[:60]!r})", hint=_HINT
        )
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    if (folder / _INDEX).exists():
        table = _read_json(folder / _INDEX).get("weight_map")
        if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
            raise ArtifactError(f"{folder / _INDEX}: weight_map is not a table of file names", hint=_HINT)
        names = sorted(set(table.values()))
    if not names:
        pickles = sorted(path.name for path in folder.iterdir() if is_pickle_name(path.name))
        raise ArtifactError(
            f"{folder} holds no .safetensors" + (f"; {pickles[0]} is a pickle and is refused" if pickles else ""),
            hint="choose a .gguf file or a folder with .safetensors",
        )
    return SafetensorsFolder(folder, config, {name: read_header(safe_join(folder, name)) for name in names})


def _tensor(path: Path, name: str, field: object, data_offset: int) -> SafetensorsTensor:
    if not isinstance(field, dict) or set(field) != {"dtype", "shape", "data_offsets"}:
        raise _bad(path, f"the tensor {name[:60]!r} is not described by dtype, shape and data_offsets")
    dtype, shape, span = field["dtype"], _wholes(field["shape"]), _wholes(field["data_offsets"])
    if (
        dtype not in DTYPE_BITS
        or shape is None
        or span is None
        or len(span) != 2
        or span[0] > span[1]
        or len(shape) > 8
    ):
        raise _bad(
            path,
            f"the tensor {name[:60]!r} is of {str(dtype)[:20]} {field['shape']!r:.60} at {field['data_offsets']!r:.60}",
        )
    n_bits = math.prod(shape) * DTYPE_BITS[dtype]
    if n_bits != 8 * (span[1] - span[0]):
        raise _bad(path, f"the tensor {name[:60]!r} of {dtype} {list(shape)} cannot have {span[1] - span[0]} bytes")
    return SafetensorsTensor(dtype, shape, data_offset + span[0], span[1] - span[0])


def _check_layout(path: Path, tensors: Mapping[str, SafetensorsTensor], start: int, size: int) -> None:
    """Every byte after the header belongs to one tensor."""
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].n_bytes)):
        if tensor.offset != start:
            raise _bad(path, f"the tensor {name[:60]!r} starts at byte {tensor.offset}; {start} was expected")
        start += tensor.n_bytes
    if start != size:
        raise _bad(path, f"the tensors end at byte {start}, the file at {size}")


def _wholes(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item < 1 << 63 for item in value):
        return None
    return tuple(value)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with open_file(path) as file:
            data = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror or error}", hint=_FOLDER_HINT) from error
    if len(data) > MAX_JSON_BYTES:
        raise _bad(path, f"more than {MAX_JSON_BYTES} bytes of JSON")
    return _json_object(path, data)


def _json_object(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            raise ValueError("a name appears twice")
        return table

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _bad(path, f"not sound JSON: {error}") from error
    if not isinstance(value, dict):
        raise _bad(path, "the JSON is not an object")
    return value


def _bad(path: Path, what: str) -> ArtifactError:
    return ArtifactError(f"{path}: {what}", hint=_HINT)

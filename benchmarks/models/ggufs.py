"""GGUF files written for the bench: copies with changed metadata. Reads trusted files only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from gguf import GGUFReader, GGUFWriter

Value: TypeAlias = str | int | float | bool

_WRITTEN_BY_GGUF = frozenset(
    {"GGUF.version", "GGUF.tensor_count", "GGUF.kv_count", "general.architecture", "general.quantization_version"}
)


def copy_metadata(source: GGUFReader, out: GGUFWriter, changed: dict[str, Value]) -> None:
    """Every key of `source`, in its order and type, with the values of `changed`, then the new keys of `changed`."""
    from gguf import GGUFValueType

    left = dict(changed)
    for key, field in source.fields.items():
        if key in _WRITTEN_BY_GGUF:
            continue
        sub_type = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        out.add_key_value(key, left.pop(key, field.contents()), field.types[0], sub_type=sub_type)
    for key, value in left.items():
        out.add_key_value(key, value, GGUFValueType.get_type(value))


def rewrite(source: Path, out: Path, changed: dict[str, Value]) -> None:
    """Copy `source` to `out` with the metadata of `changed`; tensors byte for byte."""
    from gguf import GGUFReader, GGUFWriter

    reader = GGUFReader(source)
    writer = GGUFWriter(out, reader.fields["general.architecture"].contents())
    copy_metadata(reader, writer, changed)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

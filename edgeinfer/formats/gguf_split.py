"""A GGUF file in parts, as llama.cpp's gguf-split writes them: found by name, each checked, joined to one header."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgeinfer.errors import ArtifactError
from edgeinfer.formats.gguf_header import GgufHeader, read_header
from edgeinfer.formats.gguf_oddities import ODDITIES, Odd

__all__ = ["join_headers", "join_parts", "n_parts"]

MAX_PARTS = 1024
_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.gguf)", re.IGNORECASE)


def n_parts(header: GgufHeader) -> int:
    """The number of files of the model; 1 if it is not split."""
    count = header.metadata.get("split.count", 1)
    return count if isinstance(count, int) and count > 1 else 1


def join_parts(path: Path, header: GgufHeader) -> GgufHeader:
    """The header of the whole model. `path` with `header` may be any part of it. Raises ArtifactError.

    `parts` names the files in order.
    """
    paths = _paths(path, n_parts(header))
    headers = [header if part == path else read_header(part) for part in paths]
    return replace(join_headers(headers, [str(part) for part in paths]), parts=paths)


def join_headers(headers: Sequence[GgufHeader], names: Sequence[str]) -> GgufHeader:
    """Join the headers of all parts, in order. The metadata are those of the first part. Raises ArtifactError.

    A tensor's `offset` counts in its own part.
    """
    for number, (found, name) in enumerate(zip(headers, names, strict=True)):
        says = (found.metadata.get("split.no"), found.metadata.get("split.count"))
        if says != (number, len(names)):
            raise _bad(f"{name} says that it is part {says[0]!s:.20} (from 0) of {says[1]!s:.20}")
    tensors = tuple(tensor for found in headers for tensor in found.tensors)
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise _bad(f"{names[0]}: two parts hold a tensor of one name")
    wanted = headers[0].metadata.get("split.tensors.count", len(tensors))
    if wanted != len(tensors):
        raise _bad(f"{names[0]}: its parts hold {len(tensors)} tensors; {wanted!s:.20} are declared")
    return replace(headers[0], tensors=tensors, file_bytes=sum(found.file_bytes for found in headers))


def _paths(path: Path, n: int) -> tuple[Path, ...]:
    match = _NAME.fullmatch(path.name)
    if n > MAX_PARTS or match is None or int(match[3]) != n:
        example = f"NAME-00001-of-{n:05}.gguf"
        raise _bad(f"{path} is one of {n} parts of a model, but is not named like one ({example})")
    paths = tuple(path.with_name(f"{match[1]}-{number:05}-of-{n:05}{match[4]}") for number in range(1, n + 1))
    if missing := [part.name for part in paths if not part.is_file()]:
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        raise _bad(f"{path} is one of {n} parts of a model; missing: {', '.join(missing[:4])}{more}")
    return paths


def _bad(what: str) -> ArtifactError:
    return ArtifactError(what, hint=ODDITIES[Odd.PARTS].hint)

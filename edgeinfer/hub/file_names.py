"""What the name of a GGUF file says: its tier, whether it is a model, and whether it is one part of several."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

__all__ = ["is_first_part", "is_model", "is_of_tier", "is_part", "part_names", "tier_in"]

MAX_PARTS = 1024

_TIER = re.compile(r"(?<![A-Za-z0-9])(I?Q\d+(?:_[A-Z0-9]+)*|BF16|F16|F32|MXFP4|TQ\d_0)(?![A-Za-z0-9_])", re.IGNORECASE)
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_NOT_A_MODEL = re.compile(r"(^|[-_.])(mmproj|imatrix|vocab)", re.IGNORECASE)


def is_model(file: str) -> bool:
    """False for the projectors and importance matrices that lie beside models."""
    return not _NOT_A_MODEL.search(PurePosixPath(file).name)


def is_of_tier(file: str, tier: str) -> bool:
    """Whether the name of a GGUF `file` says that it is a model of `tier`; "" is every one."""
    return is_model(file) and (not tier or tier_in(file) == tier.upper())


def is_part(file: str) -> bool:
    return bool(_PART.search(file))


def is_first_part(file: str) -> bool:
    """True for a whole file too."""
    match = _PART.search(file)
    return match is None or match[1] == "00001"


def part_names(file: str) -> tuple[str, ...]:
    """All parts of the split file that `file` is the first part of, in order; `file` alone for every other name."""
    match = _PART.search(file)
    n = int(match[2]) if match and match[1] == "00001" else 0
    if match is None or not 1 < n <= MAX_PARTS:
        return (file,)
    return tuple(f"{file[: match.start()]}-{number:05}-of-{match[2]}.gguf" for number in range(1, n + 1))


def tier_in(file: str) -> str:
    """The tier that the name of `file` ends with, in upper case; "" for none."""
    names = _TIER.findall(PurePosixPath(file).stem)
    return names[-1].upper() if names else ""

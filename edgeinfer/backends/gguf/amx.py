"""Intel AMX, where this build of llama.cpp has it: its kernels then multiply every matrix of some types.

pip builds llama.cpp for the processor that it runs on. `make` leaves AMX out (tools/llama_only.cmake).
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from edgeinfer.backends.gguf.probe import cpu_features, cpu_library

__all__ = ["amx_types", "is_miscompiled", "would_crash"]

# ggml-cpu/amx/common.h (ggml 0.25). Up to 16 rows were seen to have the bits of single ones: docs/cpu-kernels.md.
_TYPES: Final = frozenset({"Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"})
_GCC: Final = re.compile(rb"GCC: \([^)\0]*\) (\d+)\.(\d+)")


def amx_types() -> frozenset[str]:
    """Types of matrices that AMX multiplies here. Raises what `library_versions` raises."""
    return _TYPES if _has_amx() and not would_crash() else frozenset()


@cache
def would_crash() -> bool:
    """Whether the first product with AMX would. Raises what `library_versions` raises."""
    library = cpu_library()
    return _has_amx() and library.exists() and is_miscompiled(library.read_bytes())


def is_miscompiled(library: bytes) -> bool:
    """Whether GCC before 12.4 or 13.3 built it: they drop most of a tile's configuration."""
    versions = [(int(major), int(minor)) for major, minor in _GCC.findall(library)]
    by_gcc = b"clang version" not in library  # which also links objects of GCC
    return by_gcc and any(version < (12, 4) or (13, 0) <= version < (13, 3) for version in versions)


def _has_amx() -> bool:
    return "AMX_INT8" in cpu_features()

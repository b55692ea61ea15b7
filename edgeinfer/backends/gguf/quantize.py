"""Quantized copies of a GGUF, made by llama.cpp."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgeinfer.errors import EngineError, UsageError
from edgeinfer.formats.gguf_header import read_header
from edgeinfer.formats.gguf_types import GGML_TYPES


def quantize(
    source: Path,
    out: Path,
    tier: str,
    *,
    pure: bool = False,
    search: bool = False,
    n_threads: int = 0,
    types: Mapping[str, str] = MappingProxyType({}),
    requantize: bool = False,
) -> None:
    """Write `source` (F32, F16 or BF16) to `out` in `tier` ("Q4_0", "Q8_0", "Q4_K_M", ...).

    `pure` gives every matrix the same type, so that a batch of rows rounds as single rows do. With `search` the
    scale of each block is the one of least square error, not the first guess. `types` are regular expressions of tensor
    names with the type that those tensors get in place of the tier's. `requantize` allows a source that is quantized
    already. `out` appears whole or not at all.
    Raises UsageError for an unknown tier, EngineError when llama.cpp refuses.
    """
    from edgeinfer.backends.gguf import llama

    ftype = getattr(llama.C, f"LLAMA_FTYPE_MOSTLY_{tier}", None)
    if ftype is None:
        raise UsageError(f"llama.cpp has no quantization {tier!r}", hint="try Q4_0, Q8_0, Q4_K_M, Q5_K_M or Q6_K")
    options = llama.C.llama_model_quantize_default_params()
    options.ftype = ftype
    options.pure = pure
    options.allow_requantize = requantize
    if types:
        options.tt_overrides = _overrides(llama.C, types)
    options.nthread = n_threads or os.cpu_count() or 1
    if search:
        options.imatrix = _equal_importance(llama.C, source)
    part = out.with_name(out.name + ".part")
    llama.LOG.clear()
    try:
        code = llama.C.llama_model_quantize(os.fsencode(source), os.fsencode(part), llama.byref(options))
        if code != 0:
            raise EngineError(f"llama.cpp could not quantize {source} to {tier}: {llama.LOG.tail() or code}")
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def _overrides(library: Any, types: Mapping[str, str]) -> Any:
    """llama_model_tensor_override for each pattern, and a last one without a pattern."""
    numbers = {kind.name: number for number, kind in GGML_TYPES.items()}
    entries = (library.llama_model_tensor_override * (len(types) + 1))()
    for entry, (pattern, name) in zip(entries, types.items(), strict=False):
        entry.pattern, entry.type = pattern.encode(), numbers[name]
    return entries


def _equal_importance(library: Any, source: Path) -> Any:
    """llama_model_imatrix_data for each matrix, and a last one without a name: without it llama.cpp does not search."""
    matrices = [tensor for tensor in read_header(source).tensors if len(tensor.shape) > 1]
    entries = (library.llama_model_imatrix_data * (len(matrices) + 1))()
    for entry, matrix in zip(entries, matrices, strict=False):
        entry.name = matrix.name.encode()
        entry.data = (ctypes.c_float * matrix.shape[0])(*[1.0] * matrix.shape[0])
        entry.size = matrix.shape[0]
    return entries

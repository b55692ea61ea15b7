"""The weights of one model by canonical names, whatever file they come from.

Names are those of GGUF without the suffix: `token_embd`, `blk.3.attn_q`, `output_norm`. Rows of `attn_q` and `attn_k`
lie in the order in which RoPE turns the two halves of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from edgeinfer.backends.executorch.export.shape import DecoderShape
from edgeinfer.errors import ArtifactError
from edgeinfer.formats.artifact import check_artifact
from edgeinfer.formats.bundle import is_bundle
from edgeinfer.formats.gguf_header import GgufHeader

Floats: TypeAlias = npt.NDArray[np.float32]

GROUP = 32  # values of one row that share a scale in Q4_0 and in 8da4w
_SMALLEST_SCALE = np.float32(1e-30)  # of a block of zeros


@dataclass(frozen=True, slots=True)
class Q4Weight:
    """A matrix as Q4_0 holds it: `values` [out, in] int8 in [-8, 7], `scales` [out, in / 32] float32."""

    values: npt.NDArray[np.int8]
    scales: Floats


class Source(Protocol):
    path: Path
    shape: DecoderShape

    def frequencies(self) -> npt.NDArray[np.float64]:
        """RoPE's radians per position, scaling included, [head_dim / 2]."""
        ...

    def has(self, name: str) -> bool: ...

    def floats(self, name: str) -> Floats:
        """The tensor in float32, [out, in] or [out]. Raises ArtifactError when it is missing or has another shape."""
        ...

    def q4_0(self, name: str) -> Q4Weight | None:
        """The values and scales of a matrix that the file stores as Q4_0; None when it stores another type."""
        ...


def open_source(path: Path) -> Source:
    """A GGUF file or a Hugging Face folder. Raises ArtifactError for a file or an architecture that is not exported."""
    from edgeinfer.backends.executorch.export.folder_source import FolderSource
    from edgeinfer.backends.executorch.export.gguf_source import GgufSource

    if is_bundle(path):
        raise ArtifactError(f"{path} is a bundle already", hint="export the model that it was made from")
    checked = check_artifact(path)
    if isinstance(checked, GgufHeader) and checked.parts:
        raise ArtifactError(
            f"{path} is one part of a model; one file is exported", hint="join it: llama-gguf-split --merge"
        )
    return GgufSource(path, checked) if isinstance(checked, GgufHeader) else FolderSource(checked)


def q4_0_of(values: Floats) -> Q4Weight:
    """`values` [out, in] rounded as llama.cpp rounds to Q4_0: the value of largest magnitude becomes -8."""
    from gguf import GGMLQuantizationType, quantize

    return unpacked_q4_0(quantize(values, GGMLQuantizationType.Q4_0))


def unpacked_q4_0(blocks: npt.NDArray[np.uint8]) -> Q4Weight:
    """`blocks` [out, bytes of a row]: for 32 values, a float16 scale and 16 bytes of two values each."""
    n_out = blocks.shape[0]
    parts = blocks.reshape(n_out, -1, 18)
    scales = np.ascontiguousarray(parts[:, :, :2]).view(np.float16)[:, :, 0].astype(np.float32)
    nibbles = parts[:, :, 2:]
    values = np.concatenate([nibbles & 15, nibbles >> 4], axis=-1).astype(np.int8) - np.int8(8)
    return Q4Weight(values.reshape(n_out, -1), scales)


def with_positive_scales(weight: Q4Weight) -> Q4Weight:
    """The same matrix with the sign of each scale moved into its values. A value of 8 becomes 7."""
    is_negative = np.repeat(weight.scales < 0, GROUP, axis=1)
    values = np.where(is_negative, np.minimum(-weight.values.astype(np.int16), 7), weight.values)
    return Q4Weight(values.astype(np.int8), np.maximum(np.abs(weight.scales), _SMALLEST_SCALE))

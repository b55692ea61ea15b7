"""The weights of one model by canonical names, whatever file they come from.

Names are those of GGUF without the suffix: `token_embd`, `blk.3.attn_q`, `output_norm`. Rows of `attn_q` and `attn_k`
lie in the order in which RoPE turns the two halves of a head.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgeinfer.backends.executorch.export.folder_source import FolderSource
from edgeinfer.backends.executorch.export.gguf_source import GgufSource
from edgeinfer.backends.executorch.export.q4_0 import Floats, Q4Weight
from edgeinfer.backends.executorch.export.shape import DecoderShape
from edgeinfer.errors import ArtifactError
from edgeinfer.formats.artifact import check_artifact
from edgeinfer.formats.bundle import is_bundle
from edgeinfer.formats.gguf_header import GgufHeader


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
    if is_bundle(path):
        raise ArtifactError(f"{path} is a bundle already", hint="export the model that it was made from")
    checked = check_artifact(path)
    if isinstance(checked, GgufHeader) and checked.parts:
        raise ArtifactError(
            f"{path} is one part of a model; one file is exported", hint="join it: llama-gguf-split --merge"
        )
    return GgufSource(path, checked) if isinstance(checked, GgufHeader) else FolderSource(checked)

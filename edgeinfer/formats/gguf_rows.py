"""Rows of a GGUF tensor as float32, read from the file in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.errors import ArtifactError, UsageError
from edgeinfer.formats.gguf_header import TensorInfo

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["TensorRows", "read_vector"]


class TensorRows:
    """A matrix of a checked GGUF file. Only the rows that are asked for are in memory."""

    def __init__(self, path: Path, info: TensorInfo) -> None:
        self.n_rows = info.shape[1]
        self._type = info.type.name
        self._raw = np.memmap(path, np.uint8, "r", info.offset, (self.n_rows, info.n_bytes // self.n_rows))

    def __call__(self, rows: Sequence[int] | npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """[n, columns]. Raises UsageError for a row outside the matrix, ArtifactError for a type that cannot be read
        here."""
        from gguf import GGMLQuantizationType, dequantize

        wanted = np.asarray(rows, np.intp)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < self.n_rows:
            raise UsageError(f"token {wanted.max()} is outside the vocabulary of {self.n_rows}")
        raw = np.asarray(self._raw[wanted])
        try:
            values = dequantize(raw, GGMLQuantizationType[self._type])
        except (KeyError, NotImplementedError) as error:
            raise ArtifactError(f"rows of type {self._type} cannot be read") from error
        return np.asarray(values, np.float32)


def read_vector(path: Path, info: TensorInfo) -> npt.NDArray[np.float32]:
    """A tensor of one axis, [n]."""
    row: npt.NDArray[np.float32] = TensorRows(path, replace(info, shape=(info.shape[0], 1)))([0])[0]
    return row

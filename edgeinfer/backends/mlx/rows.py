"""Rows of logits that stay on the device. Arrays are lazy until one of a round is read: one evaluation a round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from edgeinfer.backends import engine_errors
from edgeinfer.backends.engine_errors import maps_engine_errors
from edgeinfer.errors import EdgeInferError
from edgeinfer.protocols import TokenLike, as_id

if TYPE_CHECKING:
    from edgeinfer.types import Logits


def engine_error(error: Exception) -> EdgeInferError:
    return engine_errors.engine_error("MLX", error)


class Pending:
    """The rows of one step that have not been read yet. Reading one evaluates all of them at once."""

    def __init__(self, waiting: Sequence[MlxRow] = ()) -> None:
        self.waiting = list(waiting)

    def evaluate(self) -> None:
        waiting, self.waiting = self.waiting, []
        try:
            mx.eval([row.token for row in waiting])
        except Exception as error:
            raise engine_error(error) from error


@maps_engine_errors("MLX")
class MlxRow:
    """logits [V] and their argmax, both still on the device. What is never read is never computed."""

    def __init__(self, pending: Pending, logits: mx.array, token: mx.array) -> None:
        self.logits = logits
        self.token = token  # [] int32
        self._pending = pending
        self._argmax: int | None = None
        pending.waiting.append(self)

    def argmax(self) -> int:
        if self._argmax is None:
            self._pending.evaluate()
            self._argmax = int(np.array(self.token))
        return self._argmax

    def numpy(self) -> Logits:
        self._pending.evaluate()
        return np.array(self.logits.astype(mx.float32))


def as_array(tokens: Sequence[TokenLike]) -> mx.array:
    """[1, T] int32; a row of this backend stands for its argmax without leaving the device."""
    if all(isinstance(token, int) for token in tokens):
        return mx.array([list(tokens)], mx.int32)
    parts = [token.token if isinstance(token, MlxRow) else mx.array(as_id(token), mx.int32) for token in tokens]
    return mx.stack(parts)[None]

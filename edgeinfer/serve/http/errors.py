"""Which status an error has. Each protocol puts it into an envelope of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

from starlette.responses import JSONResponse

from edgeinfer.errors import EdgeInferError, ModelNotFoundError, UsageError
from edgeinfer.serve.engine.job import BusyError, ClosingError
from edgeinfer.serve.http.reading import TooLargeError

__all__ = ["Envelope", "NoAccessError", "error_response", "sentence", "status_of"]

Envelope: TypeAlias = Callable[[EdgeInferError, int], Mapping[str, object]]
"""The body that a protocol's clients expect for an error and its status."""


class NoAccessError(EdgeInferError):
    """The client is not allowed. `status` is 401 if a token would help, else 403."""

    def __init__(self, message: str, *, status: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


def status_of(error: EdgeInferError) -> int:
    if isinstance(error, NoAccessError):
        return error.status
    if isinstance(error, BusyError):
        return 429
    if isinstance(error, ClosingError):
        return 503
    if isinstance(error, TooLargeError):
        return 413
    if isinstance(error, ModelNotFoundError):
        return 404
    return 400 if isinstance(error, UsageError) else 500


def sentence(error: EdgeInferError) -> str:
    """The message with its hint, for envelopes that have one text."""
    return f"{error}; hint: {error.hint}" if error.hint else str(error)


def error_response(error: EdgeInferError, envelope: Envelope) -> JSONResponse:
    status = status_of(error)
    headers = {}
    if isinstance(error, BusyError):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(envelope(error, status), status, headers)

"""The envelope of an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from edgeinfer.errors import EdgeInferError, ModelNotFoundError, PromptTooLongError
from edgeinfer.serve.http.errors import sentence
from edgeinfer.serve.http.reading import ParameterError

__all__ = ["openai_error"]

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 503: "server_error"}
_CODES: Final[Mapping[type[EdgeInferError], str]] = {  # by which clients know what to do
    ModelNotFoundError: "model_not_found",
    PromptTooLongError: "context_length_exceeded",
}


def openai_error(error: EdgeInferError, status: int) -> dict[str, object]:
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    parameter = error.parameter if isinstance(error, ParameterError) and error.parameter else None
    return {"error": {"message": sentence(error), "type": kind, "param": parameter, "code": _CODES.get(type(error))}}

"""The envelope of an error."""

from __future__ import annotations

from edgeinfer.errors import EdgeInferError, ModelNotFoundError
from edgeinfer.serve.http.errors import sentence
from edgeinfer.serve.http.reading import ParameterError

__all__ = ["openai_error"]

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 503: "server_error"}


def openai_error(error: EdgeInferError, status: int) -> dict[str, object]:
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    parameter = error.parameter if isinstance(error, ParameterError) and error.parameter else None
    code = "model_not_found" if isinstance(error, ModelNotFoundError) else None
    return {"error": {"message": sentence(error), "type": kind, "param": parameter, "code": code}}

"""The envelope of an error."""

from __future__ import annotations

from edgeinfer.errors import EdgeInferError, PromptTooLongError
from edgeinfer.serve.http.errors import sentence

__all__ = ["anthropic_error"]

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
}


def anthropic_error(error: EdgeInferError, status: int) -> dict[str, object]:
    begins = "prompt is too long: " if isinstance(error, PromptTooLongError) else ""  # clients that compact look for it
    return {"type": "error", "error": {"type": _TYPES.get(status, "api_error"), "message": begins + sentence(error)}}

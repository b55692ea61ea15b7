"""The envelope of an error."""

from __future__ import annotations

from edgeinfer.errors import EdgeInferError
from edgeinfer.serve.http.errors import sentence

__all__ = ["ollama_error"]


def ollama_error(error: EdgeInferError, status: int) -> dict[str, object]:
    del status
    return {"error": sentence(error)}

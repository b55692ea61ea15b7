"""Which protocol a path belongs to: its errors come in the envelope that its clients read."""

from __future__ import annotations

from edgeinfer.serve.anthropic.errors import anthropic_error
from edgeinfer.serve.http.errors import Envelope
from edgeinfer.serve.ollama.errors import ollama_error
from edgeinfer.serve.openai.errors import openai_error

__all__ = ["envelope_of"]

_ENVELOPES: tuple[tuple[str, Envelope], ...] = (("/v1/messages", anthropic_error), ("/api/", ollama_error))


def envelope_of(path: str) -> Envelope:
    return next((envelope for prefix, envelope in _ENVELOPES if path.startswith(prefix)), openai_error)

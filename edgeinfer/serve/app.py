"""The application: which path is answered by what."""

from __future__ import annotations

import sys
import traceback

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from edgeinfer.errors import UsageError
from edgeinfer.serve.anthropic.errors import anthropic_error
from edgeinfer.serve.anthropic.messages import count_tokens, messages
from edgeinfer.serve.health import health, metrics
from edgeinfer.serve.http.endpoint import route
from edgeinfer.serve.http.safety import Access, Guard
from edgeinfer.serve.models import Models
from edgeinfer.serve.ollama.answers import chat, generate
from edgeinfer.serve.ollama.errors import ollama_error
from edgeinfer.serve.ollama.listing import ps, show, tags, version
from edgeinfer.serve.openai.chat import chat_completions
from edgeinfer.serve.openai.completions import completions
from edgeinfer.serve.openai.errors import openai_error
from edgeinfer.serve.openai.listing import list_models, show_model
from edgeinfer.serve.openai.responses import responses
from edgeinfer.serve.page import page
from edgeinfer.serve.protocols import envelope_of

__all__ = ["make_app"]


def make_app(models: Models, access: Access) -> Starlette:
    routes = [
        route("/", page, openai_error, method="GET"),
        route("/health", health, openai_error, method="GET"),
        route("/metrics", metrics, openai_error, method="GET"),
        route("/v1/models", list_models, openai_error, method="GET"),
        route("/v1/models/{model:path}", show_model, openai_error, method="GET"),
        route("/v1/chat/completions", chat_completions, openai_error),
        route("/v1/completions", completions, openai_error),
        route("/v1/responses", responses, openai_error),
        route("/v1/messages", messages, anthropic_error),
        route("/v1/messages/count_tokens", count_tokens, anthropic_error),
        route("/api/chat", chat, ollama_error),
        route("/api/generate", generate, ollama_error),
        route("/api/show", show, ollama_error),
        route("/api/tags", tags, ollama_error, method="GET"),
        route("/api/ps", ps, ollama_error, method="GET"),
        route("/api/version", version, ollama_error, method="GET"),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, access)],
        exception_handlers={HTTPException: not_routed},  # type: ignore[dict-item]  # typed for any exception
    )
    app.state.models = models
    app.state.log = log
    return app


async def not_routed(request: Request, error: HTTPException) -> Response:
    """No such path, or another method of one."""
    from starlette.responses import JSONResponse

    what = f"{request.method} {request.url.path} is not served here"
    body = envelope_of(request.url.path)(UsageError(what[:300]), error.status_code)
    return JSONResponse(body, error.status_code, error.headers)


def log(error: Exception) -> None:
    traceback.print_exception(error, file=sys.stderr)

"""The application: endpoints, and who may reach them."""

from __future__ import annotations

import sys
import traceback
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edgeinfer.errors import UsageError
from edgeinfer.serve.description import describe
from edgeinfer.serve.endpoints import ENDPOINTS
from edgeinfer.serve.http.safety import Access, Guard
from edgeinfer.serve.models import Models
from edgeinfer.serve.protocols import envelope_of

__all__ = ["make_app"]

PATHS: Final = tuple(dict.fromkeys(endpoint.path for endpoint in ENDPOINTS if endpoint.path.count("/") > 1))


def make_app(models: Models, access: Access) -> Starlette:
    described = describe(ENDPOINTS, [one.name for one in models])

    async def description(request: Request) -> Response:
        del request
        return JSONResponse(described)

    guards = [Middleware(Guard, access)]
    if access.origins:  # first: a browser asks for permission without the token
        origins = sorted(access.origins)
        guards.insert(
            0, Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"])
        )
    app = Starlette(
        routes=[*(endpoint.route for endpoint in ENDPOINTS), Route("/openapi.json", description)],
        middleware=guards,
        exception_handlers={HTTPException: not_routed},  # type: ignore[dict-item]  # typed for any exception
    )
    app.state.models = models
    app.state.log = log
    return app


async def not_routed(request: Request, error: HTTPException) -> Response:
    """No such path, or another method of one."""
    path, allowed = request.url.path, (error.headers or {}).get("Allow", "")
    what = f"{request.method} {path} is not served here"
    wrong = UsageError(what[:300], hint=f"send {allowed}" if allowed else near(path))
    return JSONResponse(envelope_of(path)(wrong, error.status_code), error.status_code, error.headers)


def near(path: str) -> str:
    """Most often a client's base address has a `/v1` too few or too many."""
    meant = next((one for one in PATHS if one.endswith(path) or path.endswith(one)), "")
    return f"did you mean {meant}?" if meant else "GET /openapi.json lists what is"


def log(error: Exception) -> None:
    traceback.print_exception(error, file=sys.stderr)

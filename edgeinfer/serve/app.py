"""The application: endpoints, and who may reach them."""

from __future__ import annotations

import sys
import traceback

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
    what = f"{request.method} {request.url.path} is not served here"
    body = envelope_of(request.url.path)(UsageError(what[:300]), error.status_code)
    return JSONResponse(body, error.status_code, error.headers)


def log(error: Exception) -> None:
    traceback.print_exception(error, file=sys.stderr)

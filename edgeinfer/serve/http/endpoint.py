"""An endpoint: a function of the request, whose errors become the envelopes of its protocol."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgeinfer.errors import EdgeInferError, EngineError
from edgeinfer.serve.http.errors import Envelope, error_response
from edgeinfer.serve.http.streams import GoneError

__all__ = ["Handler", "route"]

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]

CLIENT_LEFT = 499  # nobody reads it; it is for a log


def route(path: str, handler: Handler, envelope: Envelope, *, method: str = "POST") -> Route:
    async def endpoint(request: Request) -> Response:
        try:
            return await handler(request)
        except GoneError:
            return Response(status_code=CLIENT_LEFT)
        except EdgeInferError as error:
            return error_response(error, envelope)
        except Exception as error:  # a mistake of ours: said in the protocol's own words, and logged by the server
            wrong = EngineError(f"unexpected {type(error).__name__}", hint="please report it with the request")
            request.app.state.log(error)
            return error_response(wrong, envelope)

    return Route(path, endpoint, methods=[method])

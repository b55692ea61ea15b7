"""An endpoint: a function of the request, whose errors become the envelopes of its protocol."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgeinfer.errors import EdgeInferError, EngineError
from edgeinfer.serve.http.errors import Envelope, error_response
from edgeinfer.serve.http.reading import Body
from edgeinfer.serve.http.streams import GoneError

__all__ = ["Endpoint", "Handler"]

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]

CLIENT_LEFT = 499  # for the log only: the client has left


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`says` is what it does, for the description; `body` what a request must hold."""

    method: Literal["GET", "POST"]
    path: str
    handler: Handler
    envelope: Envelope
    says: str
    body: type[Body] | None = None

    @property
    def route(self) -> Route:
        async def answer(request: Request) -> Response:
            try:
                return await self.handler(request)
            except GoneError:
                return Response(status_code=CLIENT_LEFT)
            except EdgeInferError as error:
                return error_response(error, self.envelope)
            except Exception as error:  # a bug of the server: reported in the protocol's own form, and logged
                wrong = EngineError(f"unexpected {type(error).__name__}", hint="please report it with the request")
                request.app.state.log(error)
                return error_response(wrong, self.envelope)

        return Route(self.path, answer, methods=[self.method])

"""Access checks. A web page in the user's browser, or another machine in the network, must not reach the model unless
allowed."""

from __future__ import annotations

import hmac
import ipaddress
import re
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from edgeinfer.errors import UsageError
from edgeinfer.serve.http.errors import NoAccessError, error_response
from edgeinfer.serve.protocols import envelope_of

__all__ = ["Access", "Guard", "is_loopback"]

ORIGIN = re.compile(r"https?://[^/\s]+")
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
OPEN_PATHS = frozenset({"/", "/health"})  # the chat page, which asks for the token itself


@dataclass(frozen=True, slots=True)
class Access:
    """`hosts` are the names under which the server may be addressed, `origins` the web pages that may ask it.

    Raises UsageError for an address that others can reach without a token.
    """

    address: str
    token: str = ""
    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not self.token and not is_loopback(self.address):
            raise UsageError(
                f"{self.address} can be reached from other machines, and there is no token",
                hint="--token-file FILE, or --host 127.0.0.1",
            )
        if wrong := next((one for one in self.origins if "*" in one or not ORIGIN.fullmatch(one)), ""):
            raise UsageError(
                f"`{wrong}` is no origin: one has a scheme, a host, and no path", hint="--origin http://localhost:3000"
            )

    @property
    def names(self) -> frozenset[str]:
        address = self.address.lower()
        return LOCAL_NAMES | self.hosts | {f"[{address}]" if ":" in address else address}


def is_loopback(address: str) -> bool:
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware that refuses a request before its body is read."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (error := self._refusal(scope)):
            await error_response(error, envelope_of(scope["path"]))(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> NoAccessError | None:
        headers = Headers(scope=scope)
        access = self._access
        if host_name(headers.get("host", "")) not in access.names:
            return NoAccessError("this server is not known under that host name", status=403, hint="--allow-host NAME")
        origin = headers.get("origin")
        if origin is not None and origin not in access.origins and not same_origin(origin, headers.get("host", "")):
            return NoAccessError("web pages of this origin may not ask this server", status=403, hint="--origin URL")
        if access.token and scope["path"] not in OPEN_PATHS:
            given = token_in(headers)
            if not hmac.compare_digest(given.encode("utf-8", "replace"), access.token.encode()):
                what = "this token is not the server's" if given else "a token is needed"
                return NoAccessError(what, status=401, hint="send `Authorization: Bearer TOKEN`")
        return None


def token_in(headers: Headers) -> str:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


def host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()


def same_origin(origin: str, host: str) -> bool:
    return origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")

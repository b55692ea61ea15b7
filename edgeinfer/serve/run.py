"""Listens, until it is stopped."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette

from edgeinfer.errors import UsageError
from edgeinfer.serve.app import make_app
from edgeinfer.serve.http.connection import TimedProtocol
from edgeinfer.serve.http.safety import Access
from edgeinfer.serve.models import Models

__all__ = ["Listener", "accept", "address_of", "bound", "configured", "listen", "serve"]

KEEP_ALIVE_S = 75  # longer than what clients keep an idle connection for
MAX_CONNECTIONS = 1000  # each may hold a body in memory
SWITCH_S = (
    0.0005  # Python's own 5 ms is the time of several tokens of a small model: the engine would wait for requests
)
CLOSE_S = 5  # for answers that still run, when the server is stopped


def serve(models: Models, access: Access, listening: socket.socket) -> None:
    """Owns `models`: they are closed at the end."""
    try:
        sys.setswitchinterval(SWITCH_S)
        freeze_what_is_loaded()
        listen(Listener(configured(make_app(models, access)), models), listening)
    finally:
        models.close()


def freeze_what_is_loaded() -> None:
    """Leave out of garbage collection what lives as long as the server.

    Python looks for old garbage when new objects are a quarter of the old ones. With 80,000 from modules and the model,
    that was about every 1,000 requests: 5 MB had come together, and a search stopped all threads for 50 to 70 ms.
    """
    gc.collect()
    gc.freeze()


def listen(listener: Listener, listening: socket.socket) -> None:
    """Answer until `listener` is stopped."""
    with asyncio.Runner(loop_factory=event_loop_factory()) as runner:
        runner.run(listener.serve(sockets=[listening]))


def event_loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop takes less processor time, and joins what is written in one turn; asyncio's own where there is none."""
    try:
        import uvloop
    except ImportError:  # on Windows
        return None
    return uvloop.new_event_loop


class Listener(uvicorn.Server):
    """Ends the answers when it is stopped, so that every client gets an end, and the server waits for none."""

    def __init__(self, config: uvicorn.Config, models: Models) -> None:
        super().__init__(config)
        self._models = models

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ends the same way when the terminal is closed, except where that is ignored (nohup)."""
        with super().capture_signals():
            hang_up = getattr(signal, "SIGHUP", None)
            is_main = threading.current_thread() is threading.main_thread()
            if hang_up is None or not is_main or signal.getsignal(hang_up) == signal.SIG_IGN:
                yield
                return
            before = signal.signal(hang_up, self.handle_exit)
            try:
                yield
            finally:
                signal.signal(hang_up, before)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.to_thread(self._models.end_answers)
        await super().shutdown(sockets)


def configured(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=TimedProtocol,
        ws="none",
        lifespan="off",
        log_level="error",  # a stranger's mistakes are answered, and fill no log
        access_log=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=CLOSE_S,
    )


def address_of(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def bound(address: str, port: int) -> socket.socket:
    """A socket that does not accept clients yet. Raises UsageError where another program listens."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
    except OSError as error:
        listening.close()
        raise cannot_listen(address, port, error) from error
    return listening


def accept(listening: socket.socket) -> None:
    """Let clients connect, and wait. Raises UsageError where another program has begun to listen meanwhile."""
    try:
        listening.listen()
    except OSError as error:
        address, port = listening.getsockname()[:2]
        raise cannot_listen(address, port, error) from error


def cannot_listen(address: str, port: int, error: OSError) -> UsageError:
    return UsageError(f"cannot listen on {address} port {port}: {error.strerror}", hint="choose another with --port")

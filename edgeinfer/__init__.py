"""edgeinfer runs a language model on the device in front of you.

    import edgeinfer

    with edgeinfer.open("demo") as session:
        for text in session.stream("Hi"):
            print(text, end="")

`choose` says what `open` would take, and why. Errors are `edgeinfer.errors`; each has a `hint`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeinfer.errors import EdgeInferError
    from edgeinfer.plan.types import Plan, Request
    from edgeinfer.runner.choose import choose
    from edgeinfer.runner.opening import open  # noqa: A004
    from edgeinfer.runner.session import Session
    from edgeinfer.types import Message, Sampling

__version__ = "0.1.0"
__all__ = ["EdgeInferError", "Message", "Plan", "Request", "Sampling", "Session", "choose", "open"]

_HOMES = {
    "EdgeInferError": "edgeinfer.errors",
    "Message": "edgeinfer.types",
    "Plan": "edgeinfer.plan.types",
    "Request": "edgeinfer.plan.types",
    "Sampling": "edgeinfer.types",
    "Session": "edgeinfer.runner.session",
    "choose": "edgeinfer.runner.choose",
    "open": "edgeinfer.runner.opening",
}


def __getattr__(name: str) -> object:
    """Import at first use: `edgeinfer --help` must not pay for an engine."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)

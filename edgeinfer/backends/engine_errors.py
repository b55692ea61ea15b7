"""Turns exceptions of an engine into EdgeInferErrors at the edge of its backend: no other exception crosses the
seam."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, TypeVar

from edgeinfer.errors import EdgeInferError, EngineError

_SEAM_VERBS: Final = (
    *("load", "run", "new_cache"),  # Backend and Model
    *("begin", "rewind", "snapshot", "restore", "draft", "verify", "commit", "rollback"),  # Cache and Round
    *("argmax", "numpy", "close"),
)
_OUT_OF_MEMORY: Final = ("OutOfMemory", "Insufficient Memory", "Unable to allocate")  # words of Metal, MLX and NumPy
_LESS_MEMORY: Final = "lower --context, choose a smaller --tier, or close other programs"

AnyClass = TypeVar("AnyClass", bound=type)


def engine_error(engine: str, error: Exception) -> EdgeInferError:
    """`error` as an EdgeInferError: one line that names the engine, and a hint if memory ran out."""
    if isinstance(error, EdgeInferError):
        return error
    text = _first_line(error)
    memory = isinstance(error, MemoryError) or any(words in text for words in _OUT_OF_MEMORY)
    hint = _LESS_MEMORY if memory else ""
    return EngineError(f"{engine}: {text}", hint=hint)


def _first_line(error: Exception) -> str:
    try:
        return str(error).strip().partition("\n")[0] or type(error).__name__
    except Exception:  # the text of some NumPy exceptions is made late, and may fail
        return type(error).__name__


def maps_engine_errors(engine: str) -> Callable[[AnyClass], AnyClass]:
    """A class decorator: exceptions of the class's seam methods become EdgeInferErrors."""

    def decorate(cls: AnyClass) -> AnyClass:
        for name in _SEAM_VERBS:
            if name in vars(cls):
                setattr(cls, name, _mapped(vars(cls)[name], engine))
        return cls

    return decorate


def _mapped(verb: Callable[..., Any], engine: str) -> Any:
    @functools.wraps(verb)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return verb(*args, **kwargs)
        except EdgeInferError:
            raise
        except Exception as error:
            raise engine_error(engine, error) from error

    return call

"""Work in a process of its own: the operators of an engine can be registered once in a process, and a crash of the
library fails one test."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def apart(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """What `function` of a module returns in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments, **named).result()


def in_child(test: Callable[..., None]) -> Callable[..., None]:
    """Runs a test in a fresh process. Its fixtures are pickled."""

    @functools.wraps(test)
    def run(**fixtures: object) -> None:
        apart(_call, test.__module__, test.__qualname__, fixtures)

    return run


def _call(module: str, name: str, fixtures: dict[str, object]) -> None:
    getattr(importlib.import_module(module), name).__wrapped__(**fixtures)

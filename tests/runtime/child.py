"""Runs work in a separate process: an engine's operators can be registered once per process, and a crash fails only one
test."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

import pytest

from tests.runtime.sanitized import SANITIZER, of_python, start_programs_without_preload

P = ParamSpec("P")
T = TypeVar("T")


def apart(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """The result of a module's `function`, called in a fresh process."""
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=start_programs_without_preload)
    with pytest.MonkeyPatch.context() as patch, pool:
        for name, value in of_python(SANITIZER, dict(os.environ)).items():
            patch.setenv(name, value)
        return pool.submit(function, *arguments, **named).result()


def in_child(test: Callable[..., None]) -> Callable[..., None]:
    """Runs a test in a fresh process. Its fixtures are pickled."""

    @functools.wraps(test)
    def run(**fixtures: object) -> None:
        apart(_call, test.__module__, test.__qualname__, fixtures)

    return run


def _call(module: str, name: str, fixtures: dict[str, object]) -> None:
    getattr(importlib.import_module(module), name).__wrapped__(**fixtures)

"""Runs work in other processes: an engine's operators can be registered once per process. A crash fails one test."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

import pytest

from tests.runtime.sanitized import SANITIZER, of_python, start_programs_without_preload

P = ParamSpec("P")
T = TypeVar("T")


class Process:
    """One process for many calls, with a sanitizer's library or none. After a crash, the next call starts another."""

    def __init__(self, sanitizer: str = SANITIZER) -> None:
        self._sanitizer = sanitizer
        self._pool = _new_pool()

    def __call__(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """The result of a module's `function`."""
        try:
            with pytest.MonkeyPatch.context() as patch:
                for name, value in of_python(self._sanitizer, dict(os.environ)).items():
                    patch.setenv(name, value)
                return self._pool.submit(function, *arguments, **named).result()
        except BrokenProcessPool:
            self._pool = _new_pool()
            raise

    def close(self) -> None:
        self._pool.shutdown()


def _new_pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=start_programs_without_preload)


def in_child(test: Callable[..., None]) -> Callable[..., None]:
    """Runs a test in a fresh process. Its fixtures are pickled."""

    @functools.wraps(test)
    def run(**fixtures: object) -> None:
        with closing(Process()) as fresh:
            fresh(_call, test.__module__, test.__qualname__, fixtures)

    return run


def _call(module: str, name: str, fixtures: dict[str, object]) -> None:
    getattr(importlib.import_module(module), name).__wrapped__(**fixtures)

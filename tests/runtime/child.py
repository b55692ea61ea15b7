"""Runs work in a separate process: an engine's operators can be registered once per process, and a crash fails only one
test."""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

import pytest

P = ParamSpec("P")
T = TypeVar("T")

SANITIZER = os.environ.get("EDGEINFER_SANITIZER", "")
"""What the runtime is compiled with, such as "address,undefined"; "" for a usual build."""


def apart(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """The result of a module's `function`, called in a fresh process."""
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_forget_preload)
    with pytest.MonkeyPatch.context() as patch, pool:
        if "address" in SANITIZER:  # its library must be loaded first; Python itself leaks
            patch.setenv("LD_PRELOAD", f"{library_of_compiler('libasan.so')} {library_of_compiler('libstdc++.so')}")
            patch.setenv("ASAN_OPTIONS", "detect_leaks=0")
            patch.setenv("UBSAN_OPTIONS", "halt_on_error=1")
        return pool.submit(function, *arguments, **named).result()


def _forget_preload() -> None:
    """Processes that this one starts have limits on their memory, which the sanitizer's shadow exceeds."""
    os.environ.pop("LD_PRELOAD", None)


def library_of_compiler(name: str) -> str:
    done = subprocess.run(["c++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def in_child(test: Callable[..., None]) -> Callable[..., None]:
    """Runs a test in a fresh process. Its fixtures are pickled."""

    @functools.wraps(test)
    def run(**fixtures: object) -> None:
        apart(_call, test.__module__, test.__qualname__, fixtures)

    return run


def _call(module: str, name: str, fixtures: dict[str, object]) -> None:
    getattr(importlib.import_module(module), name).__wrapped__(**fixtures)

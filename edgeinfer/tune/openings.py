"""First messages to begin conversations with. Without them, a model writes messages that are much alike."""

from __future__ import annotations

import random
import tomllib
from pathlib import Path
from typing import Final

__all__ = ["openings"]

_FILE: Final = Path(__file__).with_suffix(".toml")


def openings(*, seed: int) -> list[str]:
    """About 4,500 messages, in an order that the seed fixes."""
    groups = tomllib.loads(_FILE.read_text(encoding="utf-8"))["group"]
    every = [form.format(subject) for group in groups for form in group["forms"] for subject in group["subjects"]]
    random.Random(seed).shuffle(every)
    return every

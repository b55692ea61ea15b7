"""Short beginnings with known continuations: which of four does the model find most likely?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeinfer.bench.opened import OpenedModel
from edgeinfer.prefill import prefill
from edgeinfer.protocols import Cache
from edgeinfer.types import Tokens

__all__ = ["Task", "load_tasks", "share_of_right"]

_FILE = Path(__file__).parents[1] / "data" / "tasks.jsonl"


@dataclass(frozen=True, slots=True)
class Task:
    prompt: str
    choices: tuple[str, ...]  # the first is right


def load_tasks() -> list[Task]:
    lines = _FILE.read_text(encoding="utf-8").splitlines()
    return [Task(one["prompt"], tuple(one["choices"])) for one in map(json.loads, lines)]


def share_of_right(subject: OpenedModel) -> float:
    """The share of tasks whose right continuation has the highest mean log probability per token."""
    tokenizer, tasks = subject.model.tokenizer, load_tasks()
    cache = subject.model.new_cache(subject.plan.window)
    right = 0
    try:
        for task in tasks:
            cache.rewind(0)
            start = tokenizer.encode(tokenizer.bos_text, special=True)
            prompt = [*start, *tokenizer.encode(task.prompt, special=False)]
            scores = [_score(cache, prompt, tokenizer.encode(f" {choice}", special=False)) for choice in task.choices]
            right += int(np.argmax(scores) == 0)
    finally:
        cache.close()
    return right / len(tasks)


def _score(cache: Cache, prompt: Sequence[int], choice: Tokens) -> float:
    if cache.length < len(prompt) - 1:
        prefill(cache, prompt[cache.length : -1])
    step = cache.begin(len(choice))
    try:
        rows = [row.numpy().astype(np.float64) for row in step.verify([prompt[-1], *choice[:-1]])]
    finally:
        step.rollback()
    return float(np.mean([row[token] - np.logaddexp.reduce(row) for row, token in zip(rows, choice, strict=True)]))

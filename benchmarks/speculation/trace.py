"""Asks the exit for each token of the plain greedy answers: which would it have drafted right?"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Final

from edgeinfer.bench.speculation.records import Log
from edgeinfer.bench.speculation.sides import Sides
from edgeinfer.prefill import prefill

_PROMPTS: Final = 12  # at most so many prompts of a model


def trace_exit(sides: Sides, log: Log) -> Mapping[int, tuple[bool, ...]]:
    """By prompt: for each token of the answer but the first, whether the exit drafts it. Empty without an exit."""
    model = sides.exit_model
    if model is None:
        return {}
    own = [record for record in log.latest().values() if record.subject == sides.subject and record.text[1]]
    traces: dict[int, tuple[bool, ...]] = {}
    cache = model.new_cache(sides.plan.window)
    try:
        for record in own[:_PROMPTS]:
            prompt, answer = record.text
            cache.rewind(0)
            prefill(cache, prompt)
            agreed: list[bool] = []
            for token, after in pairwise(answer):
                step = cache.begin(1)
                agreed.append(step.draft(token).argmax() == after)
                step.verify([token])
                step.commit(1)
            traces[record.prompt] = tuple(agreed)
    finally:
        cache.close()
    return traces

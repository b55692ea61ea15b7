"""Asks the exit at each token of the plain greedy answers what it would draft from there, and how surely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from edgeinfer.bench.speculation.records import Log
from edgeinfer.bench.speculation.sides import Sides
from edgeinfer.decode.drafters.gated import MAX_DRAFTS
from edgeinfer.decode.policy.gate import confidence
from edgeinfer.prefill import prefill
from edgeinfer.protocols import Cache

Chain: TypeAlias = tuple[tuple[int, float], ...]
"""Drafts in a row, each with its own probability."""

_PROMPTS: Final = 12  # at most so many prompts of a model


def trace_exit(sides: Sides, log: Log) -> Mapping[int, tuple[Chain, ...]]:
    """By prompt: what the exit would draft after each token of the answer but the last. Empty without an exit."""
    model = sides.exit_model
    if model is None:
        return {}
    own = [record for record in log.latest().values() if record.subject == sides.subject and record.text[1]]
    traces: dict[int, tuple[Chain, ...]] = {}
    depth = min(MAX_DRAFTS, (model.exact_rows or MAX_DRAFTS + 1) - 1)
    cache = model.new_cache(sides.plan.window)
    try:
        for record in own[:_PROMPTS]:
            prompt, answer = record.text
            cache.rewind(0)
            prefill(cache, prompt)
            traces[record.prompt] = _chains(cache, answer, depth)
    finally:
        cache.close()
    return traces


def _chains(cache: Cache, answer: Sequence[int], depth: int) -> tuple[Chain, ...]:
    chains: list[Chain] = []
    for token in answer[:-1]:
        step = cache.begin(depth + 1)
        newest, chain = token, []
        for _ in range(depth):
            row = step.draft(newest)
            newest = row.argmax()
            chain.append((newest, confidence(row.numpy(), newest)))
        step.rollback()
        chains.append(tuple(chain))
        step = cache.begin(1)
        step.verify([token])
        step.commit(1)
    return tuple(chains)

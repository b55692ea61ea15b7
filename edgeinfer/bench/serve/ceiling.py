"""The speed of the engine alone: the time of one row for each of several conversations, without a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from time import perf_counter
from typing import Final

from edgeinfer.bench.opened import OpenedModel
from edgeinfer.prefill import prefill
from edgeinfer.protocols import Ask

_PROMPT: Final = 60  # tokens in each cache, as the clients' prompts have
_ROUNDS: Final = 48


def ceilings(subject: OpenedModel, n_clients: Sequence[int]) -> Mapping[int, float]:
    """Tokens per second of all conversations, by the number of conversations in a step."""
    model, policy = subject.model, subject.plan.window
    caches = [model.new_cache(policy) for _ in range(max(n_clients))]
    found = {}
    for n in n_clients:
        for index, cache in enumerate(caches[:n]):
            cache.rewind(0)
            prefill(cache, [5 + (index + at) % 50 for at in range(_PROMPT)])
        seconds = []
        for _ in range(_ROUNDS):
            began = perf_counter()
            asks = [Ask(cache.begin(1), [7], 1) for cache in caches[:n]]
            for (row,) in model.run(asks):
                row.argmax()
            for ask in asks:
                ask.round.commit(1)
            seconds.append(perf_counter() - began)
        found[n] = n / median(seconds)
    for cache in caches:
        cache.close()
    return found

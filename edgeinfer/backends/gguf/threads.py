"""How many threads decode fastest, measured on the model itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from edgeinfer.backends.gguf.llama import Batch, Context, ContextOptions, LoadedModel

_TRIES = 4
_MOST_S = 0.3  # a large model is tried once with each number
_WORTH = 1.15
_HOPELESS = 2.0  # threads that wait for a busy core: two looks are enough; the first one starts the threads


def fastest_threads(model: LoadedModel, most: int) -> int:
    """Of `most` threads and fewer (threads that share a core, or a memory bus that one core fills, do not help).

    Costs at most 13 one-row decodes in a small context.
    """
    candidates = sorted({most, max(1, most - 1), max(1, most // 2)})
    if len(candidates) == 1:
        return most
    context = Context(model, ContextOptions(slots=256, n_batch=1, n_threads=candidates[0], n_outputs=1))
    try:
        batch = Batch(1)
        batch.fill([0], 0, n_wanted=1)
        context.decode(batch)  # the first one touches the weights
        return _choose(candidates, lambda n_threads: _decode_s(context, batch, n_threads))
    finally:
        context.close()


def _decode_s(context: Context, batch: Batch, n_threads: int) -> float:
    context.set_threads(n_threads)
    batch.fill([0], 1, n_wanted=1)
    started = time.perf_counter()
    context.decode(batch)
    seconds = time.perf_counter() - started
    context.remove(1)
    return seconds


def _choose(candidates: Sequence[int], seconds: Callable[[int], float]) -> int:
    """The most threads that are about as fast as the fastest: this machine may be busy just now.

    `candidates` go from few to many, so that a number whose threads wait for each other is soon known.
    """
    best = dict.fromkeys(candidates, float("inf"))
    spent = 0.0
    for tried in range(_TRIES):
        if tried and spent > _MOST_S:
            break
        for n_threads in candidates:
            if tried >= 2 and best[n_threads] > _HOPELESS * min(best.values()):
                continue
            took = seconds(n_threads)
            spent += took
            best[n_threads] = min(best[n_threads], took)
    good = min(best.values()) * _WORTH
    return max(n_threads for n_threads in candidates if best[n_threads] <= good)

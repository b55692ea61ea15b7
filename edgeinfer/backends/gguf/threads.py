"""How many threads decode fastest, measured on the model itself."""

from __future__ import annotations

import time

from edgeinfer.backends.gguf.llama import Batch, Context, ContextOptions, LoadedModel

_TRIES = 4
_MOST_S = 0.3  # a large model is tried once with each number
_WORTH = 1.15


def fastest_threads(model: LoadedModel, most: int) -> int:
    """Of `most` threads and fewer (threads that share a core, or a memory bus that one core fills, do not help).

    Costs at most 16 one-row decodes in a small context.
    """
    candidates = sorted({most, max(1, most - 1), max(1, most // 2)}, reverse=True)
    if len(candidates) == 1:
        return most
    context = Context(model, ContextOptions(slots=256, n_batch=1, n_threads=most, n_outputs=1))
    try:
        batch = Batch(1)
        batch.fill([0], 0, n_wanted=1)
        context.decode(batch)  # the first one touches the weights
        best = dict.fromkeys(candidates, float("inf"))
        begun = time.perf_counter()
        for tried in range(_TRIES):
            if tried and time.perf_counter() - begun > _MOST_S:
                break
            for n_threads in candidates:
                context.set_threads(n_threads)
                batch.fill([0], 1, n_wanted=1)
                started = time.perf_counter()
                context.decode(batch)
                best[n_threads] = min(best[n_threads], time.perf_counter() - started)
                context.remove(1)
    finally:
        context.close()
    good = min(best.values()) * _WORTH  # fewer threads only where that clearly pays: this machine may be busy just now
    return next(n_threads for n_threads in candidates if best[n_threads] <= good)

"""The threads of llama.cpp: how many decode fastest, measured on the model itself, and when they end."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final

import llama_cpp.llama_cpp as C

from edgeinfer.backends.gguf.batch import Batch
from edgeinfer.backends.gguf.llama import Context, ContextOptions, LlamaModel

_ROUNDS: Final = 7
_MAX_S: Final = 0.4  # a large model is timed once for each number
_ABOUT_EQUAL: Final = 1.05
_HOPELESS: Final = 2.0  # threads that wait for a busy core are tried three times; the first try starts the threads

_SOFT_PAUSE: Final = 1  # of OpenMP: the next forward starts the threads again


def fastest_threads(model: LlamaModel, most: int) -> int:
    """The fastest number of threads, `most` or fewer. Threads that share a core, or a memory bus that one core fills,
    do not help.

    Costs at most 22 one-row decodes in a small context.
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
    """The most threads whose median is about that of the fastest.

    The median shows the usual time: beside other programs, threads that are sometimes fast mostly wait for each
    other. `candidates` go from few to many, and take turns, so that a busy moment slows all of them alike.
    """
    times: dict[int, list[float]] = {n_threads: [] for n_threads in candidates}
    spent = 0.0
    for tried in range(_ROUNDS):
        if tried and spent > _MAX_S:
            break
        fastest = min((min(taken) for taken in times.values() if taken), default=0.0)
        for n_threads in candidates:
            if tried >= 3 and min(times[n_threads]) > _HOPELESS * fastest:
                continue
            took = seconds(n_threads)
            spent += took
            times[n_threads].append(took)
    medians = {n_threads: statistics.median(taken) for n_threads, taken in times.items()}
    good = min(medians.values()) * _ABOUT_EQUAL
    return max(n_threads for n_threads in candidates if medians[n_threads] <= good)


def end_team() -> None:
    """End the OpenMP threads that wait for the calling thread's next decode.

    GNU's libgomp keeps a team for every thread that has decoded. Two teams have more threads than there are cores; then
    they sleep at every barrier instead of spinning, and a step of eight conversations takes 1.4 times as long (two
    cores). Other OpenMP libraries keep one pool for the process, and are left alone.
    """
    pause = getattr(C._lib, "omp_pause_resource_all", None)
    if pause is not None and not hasattr(C._lib, "__kmpc_fork_call"):
        pause(_SOFT_PAUSE)

"""Speed and memory of one setting, in a separate process, because a model may reuse memory that an earlier one left."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

from edgeinfer import backends
from edgeinfer.backends.gguf.facts import FACTS as LLAMA_CPP
from edgeinfer.bench.memory_use import rss_bytes
from edgeinfer.bench.opened import path_of
from edgeinfer.decode.loop import Decoder
from edgeinfer.errors import EngineError
from edgeinfer.plan.types import Request
from edgeinfer.protocols import Model
from edgeinfer.runner.choose import choose
from edgeinfer.types import GREEDY, Prompt
from edgeinfer.window import WindowPolicy

__all__ = ["Use", "measure_use"]

_TEXT = Path(__file__).parents[1] / "data" / "text.txt"
_PROMPT_TOKENS = 128
_NEW_TOKENS = 48


@dataclass(frozen=True, slots=True)
class Use:
    tokens_per_s: float
    first_token_s: float  # of a prompt of 128 tokens
    memory_bytes: int  # added by opening the model and answering


def measure_use(request: Request) -> Use:
    """Open the model of `request` in a new process, and answer once. Raises EngineError where that process fails."""
    command = [sys.executable, "-m", __name__, json.dumps(asdict(request))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EngineError(
            f"the process that measured {request.model} ended with {done.returncode}: {done.stderr[-500:]}"
        )
    return Use(**json.loads(done.stdout))


def _measure_here(request: Request) -> Use:
    """On llama.cpp one thread is timed by its processor time, which other programs do not change."""
    plan = choose(request, offline=True)
    by_processor = plan.facts == LLAMA_CPP and not plan.device.accelerators
    if by_processor:
        plan = replace(plan, n_threads=1)
    before = rss_bytes()
    model = backends.get(plan.backend).load(plan, path_of(plan))
    try:
        times = _token_times(model, plan.window, by_processor=by_processor)
        memory = rss_bytes() - before
    finally:
        model.close()
    gaps = [after - before for before, after in pairwise(times)]
    return Use(1 / sorted(gaps[1:])[len(gaps) // 2], gaps[0], memory)


def _token_times(model: Model, window: WindowPolicy, *, by_processor: bool) -> list[float]:
    """The times, in seconds, at which the answer began and each of its tokens arrived."""
    clock = time.process_time if by_processor else time.perf_counter
    tokens = model.tokenizer.encode(_TEXT.read_text(encoding="utf-8"), special=False)
    decoder = Decoder(model, window)
    try:
        prompt = Prompt(tuple(tokens[:_PROMPT_TOKENS]))
        times = [clock()]
        for _ in decoder.stream(prompt, GREEDY, max_tokens=_NEW_TOKENS, stop_tokens=frozenset()):
            times.append(clock())
        return times
    finally:
        decoder.close()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(_measure_here(Request(**json.loads(sys.argv[1]))))))

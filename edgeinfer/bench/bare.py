"""The same C calls in a bare loop: the lower bound of the time for decoding."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeinfer.types import Tokens

if TYPE_CHECKING:
    from edgeinfer.backends.gguf.model import GgufModel
    from edgeinfer.window import WindowPolicy


@dataclass(frozen=True, slots=True)
class Timed:
    """One run. `decode_s` covers the tokens after the first, which the prefill makes."""

    tokens: tuple[int, ...]
    prefill_s: float
    decode_s: float


def bare_run(model: GgufModel, policy: WindowPolicy, prompt: Tokens, n_tokens: int) -> Timed:
    """Greedy tokens by a plain loop over llama_decode and llama_get_logits_ith. The prompt must fit the window."""
    from edgeinfer.backends.gguf.batch import Batch
    from edgeinfer.backends.gguf.llama import Context

    options = model.settings.options(policy)
    context = Context(model.loaded, options)
    batch = Batch(options.n_batch)
    try:
        started = time.perf_counter()
        for at in range(0, len(prompt), options.n_batch):
            part = prompt[at : at + options.n_batch]
            batch.fill(part, at, n_wanted=int(at + len(part) == len(prompt)))
            context.decode(batch)
        token = int(context.logits(-1).argmax())
        prefilled = time.perf_counter()
        tokens = [token]
        for position in range(len(prompt), len(prompt) + n_tokens - 1):
            batch.fill([token], position, n_wanted=1)
            context.decode(batch)
            token = int(context.logits(0).argmax())
            tokens.append(token)
        return Timed(tuple(tokens), prefilled - started, time.perf_counter() - prefilled)
    finally:
        context.close()

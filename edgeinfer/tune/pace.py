"""Measures how fast this device writes text and teaches, by a short run of both."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Final

import torch

from edgeinfer.tune.conversations import Conversations, batches, sampled_tokens
from edgeinfer.tune.drafts import Kind, new_draft
from edgeinfer.tune.judge import rank_tokens
from edgeinfer.tune.teach import Progress, Schedule, teach
from edgeinfer.tune.torch_model import GenerationCache, TorchModel
from edgeinfer.tune.work import Pace, Sizes

__all__ = ["measure_pace"]

_WARM_STEPS: Final = 1
_TIMED_STEPS: Final = 2
_TIMED_TOKENS: Final = 8


def measure_pace(model: TorchModel, sizes: Sizes, kinds: Sequence[Kind], *, exit_layer: int, n_ranked: int) -> Pace:
    """Made of random tokens, which take the same time."""
    return Pace(
        _s_per_token(model, sizes) * sizes.n_tokens,
        {kind: _s_per_step(model, sizes, kind, exit_layer, n_ranked) for kind in kinds},
    )


def _s_per_token(model: TorchModel, sizes: Sizes) -> float:
    """In the middle of a part, where the number of visible keys is average."""
    cache = GenerationCache(model, sizes.part_rows, sizes.n_tokens)
    cache.length = sizes.n_tokens // 2
    tokens = torch.zeros(sizes.part_rows, dtype=torch.long, device=model.device)
    temperature = torch.ones(sizes.part_rows, device=model.device)
    noise = torch.Generator(model.device).manual_seed(0)

    def step() -> None:
        sampled_tokens(model.step(tokens, cache).float(), temperature, noise).cpu()

    step()
    began = perf_counter()
    for _ in range(_TIMED_TOKENS):
        step()
    return (perf_counter() - began) / _TIMED_TOKENS


def _s_per_step(model: TorchModel, sizes: Sizes, kind: Kind, exit_layer: int, n_ranked: int) -> float:
    shape = (sizes.step_rows, sizes.n_tokens)
    tokens = torch.arange(sizes.step_positions, dtype=torch.int32).reshape(shape) % model.shape.n_vocab
    data = Conversations(tokens, torch.ones(shape, dtype=torch.bool), torch.ones(shape[0], dtype=torch.bool))
    seen: list[float] = []

    def note(_: Progress) -> None:
        seen.append(perf_counter())

    draft = new_draft(model, kind, exit_layer=exit_layer, seed=0)
    ranked = rank_tokens(data, model.shape.n_vocab)[:n_ranked]
    for n_steps in (_WARM_STEPS, _TIMED_STEPS):
        seen.append(perf_counter())
        teach(
            model, draft, batches(data, sizes.step_rows, seed=0), Schedule(n_steps),
            ranked=ranked, judge=lambda: (0.0,), progress=note,
        )  # fmt: skip
    return (seen[-1] - seen[-2]) / _TIMED_STEPS

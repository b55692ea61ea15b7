"""Measures how often a draft agrees with the model, on held-out text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from edgeinfer.tune.conversations import Conversations
from edgeinfer.tune.drafts import Draft
from edgeinfer.tune.torch_model import TorchModel

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Agreement", "judge", "rank_tokens"]

_ROWS: Final = 8  # conversations of one forward


@dataclass(frozen=True, slots=True)
class Agreement:
    """The share of drafts that are the model's own token, where the drafts before them were right too.

    `by_depth[d]` is that of draft d + 1, with a head of `n_vocab` tokens; `n` is the tokens judged at depth 1.
    """

    n_vocab: int
    temperature: float
    by_depth: tuple[float, ...]
    n: int


def rank_tokens(data: Conversations, n_vocab: int) -> Tensor:
    """Token ids [V] by how often the assistant wrote them; ties and unseen tokens by how often they occur elsewhere."""
    flat = data.tokens[:, 1:].flatten().long()
    weight = data.own[:, :-1].flatten().double() + 1e-3
    return torch.bincount(flat, weights=weight, minlength=n_vocab).argsort(descending=True, stable=True)


@torch.no_grad()
def judge(
    model: TorchModel,
    draft: Draft,
    data: Conversations,
    ranked: Tensor,
    *,
    head_sizes: Sequence[int],
    temperatures: Sequence[float] = (0.0,),
    seed: int = 0,
) -> list[Agreement]:
    """Teacher-forced along the assistant's greedy text. At a temperature both sides add the same Gumbel noise.

    Depth d counts only where the d - 1 drafts before it were hits, as in a decoder.
    """
    hits: dict[tuple[int, float, int], list[Tensor]] = {}
    noise = torch.Generator(model.device).manual_seed(seed)
    rows_of = data.greedy.nonzero().flatten()
    ranked = ranked.to(model.device)
    for some in rows_of.split(_ROWS):
        tokens = data.tokens[some].long().to(model.device)
        own = data.own[some].to(model.device)
        states = model.states(tokens, draft.kept | {model.shape.n_layers})
        target = model.logits(states[model.shape.n_layers]).float()
        with model.mixed():
            rows = draft.rows(states, tokens)
        for temperature in temperatures:
            gumbel = _gumbel(target, noise) * temperature
            wanted = (target + gumbel).argmax(-1)
            for size in head_sizes:
                subset = ranked[:size]
                reached = own
                for depth, row in enumerate(rows):
                    guesses = (row.to(model.dtype) @ model.output[subset].T).float() + gumbel[..., subset]
                    hit = subset[guesses.argmax(-1)] == wanted
                    hits.setdefault((size, temperature, depth), []).append(hit[reached].cpu())
                    # the next depth's row t stands one position later: its earlier drafts ended at t - 1
                    reached = own & torch.nn.functional.pad(hit & reached, (1, 0))[:, :-1]
    return [
        Agreement(
            size, temperature,
            tuple(_mean(hits[size, temperature, depth]) for depth in range(draft.n_depths)),
            sum(map(len, hits[size, temperature, 0])),
        )
        for size in head_sizes
        for temperature in temperatures
    ]  # fmt: skip


def _gumbel(like: Tensor, noise: torch.Generator) -> Tensor:
    uniform = torch.rand(like.shape, generator=noise, device=like.device).clamp_(1e-9, 1 - 1e-7)
    return -(-uniform.log()).log()


def _mean(found: Sequence[Tensor]) -> float:
    joined = torch.cat(list(found)).float()
    return float(joined.mean()) if len(joined) else 0.0

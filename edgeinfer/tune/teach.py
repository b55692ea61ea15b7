"""Teaching: the draft learns the model's own distribution, on text that the model wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Final

import torch
from torch import nn

from edgeinfer.tune.drafts import Draft
from edgeinfer.tune.torch_model import TorchModel

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Progress", "Schedule", "teach"]

_CONTEXT_WEIGHT: Final = 0.1  # of a token that the assistant did not write; its own count 1
_DEPTH_DECAY: Final = 0.8  # of the loss, a depth: later drafts are reached less often
_DEEP_ROWS: Final = 2  # every second row is judged past the first depth, which halves the cost of the head
_SAVE_EVERY_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """`n_steps` batches; warm-up, then constant, then a linear decay over the last `decay` of the steps."""

    n_steps: int
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    decay: float = 0.7

    def rate(self, step: int) -> float:
        left = (self.n_steps - step) / max(1.0, self.decay * self.n_steps)
        return self.learning_rate * min(1.0, (step + 1) / self.warmup_steps) * min(1.0, left)


@dataclass(frozen=True, slots=True)
class Progress:
    step: int
    n_steps: int
    loss: float  # cross-entropy of the first draft, nats a token
    s_per_step: float


def teach(
    model: TorchModel,
    draft: Draft,
    data: Iterator[tuple[Tensor, Tensor]],
    schedule: Schedule,
    *,
    ranked: Tensor,
    checkpoint: Path | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> None:
    """Teach `draft` in place with AdamW. `data` gives tokens [B, T] and which next tokens are the assistant's.

    Only the tokens of `ranked` [n] are guessed, so the draft's capacity goes where drafts can be right, and a head of n
    rows is a fraction of the cost. With `checkpoint` the run resumes from a file of that name, which is replaced once a
    minute and when the run is interrupted; `data` must then give the same batches again.
    """
    module = draft.module()
    ranked = ranked.to(model.device)
    optimizer = torch.optim.AdamW(module.parameters(), lr=schedule.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    first = _resume(module, optimizer, checkpoint)
    for _ in range(first):
        next(data)
    step, began, saved = first, perf_counter(), perf_counter()
    try:
        while step < schedule.n_steps:
            tokens, own = (part.to(model.device) for part in next(data))
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step)
            loss = _step(model, draft, optimizer, (tokens, own), ranked, offset=step % _DEEP_ROWS)
            step += 1
            if step % 10 == 0 or step == schedule.n_steps:
                s_per_step = (perf_counter() - began) / (step - first)
                progress(Progress(step, schedule.n_steps, float(loss), s_per_step))
            if checkpoint and perf_counter() - saved > _SAVE_EVERY_S:
                _save(module, optimizer, step, checkpoint)
                saved = perf_counter()
    finally:
        if checkpoint:
            _save(module, optimizer, step, checkpoint)


def _step(
    model: TorchModel, draft: Draft, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor], ranked: Tensor, *,
    offset: int,
) -> Tensor:  # fmt: skip
    """One batch: the first depth's loss, for people to watch."""
    tokens, own = batch
    n_layers = model.shape.n_layers
    states = model.states(tokens, draft.kept | {n_layers})
    target = _target(model, states[n_layers], ranked)
    weight = own.float() * (1.0 - _CONTEXT_WEIGHT) + _CONTEXT_WEIGHT
    head = model.output[ranked]
    with model.mixed():
        losses = []
        for depth, rows in enumerate(draft.rows(states, tokens)):
            kept = slice(1, None) if depth == 0 else slice(1 + offset, None, _DEEP_ROWS)
            losses.append(_cross_entropy(rows[:, kept], head, target[:, kept], weight[:, kept]))
        total = torch.stack([loss * _DEPTH_DECAY**depth for depth, loss in enumerate(losses)]).sum()
    optimizer.zero_grad()
    total.backward()
    nn.utils.clip_grad_norm_(draft.module().parameters(), 1.0)
    optimizer.step()
    return losses[0].detach()


@torch.no_grad()
def _target(model: TorchModel, states: Tensor, ranked: Tensor) -> Tensor:
    """The model's own probabilities of the ranked tokens: [B, T, n]. They sum to less than 1."""
    logits = model.logits(states)
    total = logits.float().logsumexp(-1, keepdim=True)
    return (logits[..., ranked].float() - total).exp().to(model.dtype)


def _cross_entropy(rows: Tensor, head: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy of the draft against the model, in nats: mean over `weight`. A row counts by its target's sum."""
    logits, target = (rows @ head.T.to(rows.dtype)).float(), target.float()
    cross = logits.logsumexp(-1) * target.sum(-1) - (target * logits).sum(-1)
    return (cross * weight).sum() / weight.sum()


def _resume(module: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Path | None) -> int:
    if checkpoint is None or not checkpoint.exists():
        return 0
    kept = torch.load(checkpoint, weights_only=True)
    module.load_state_dict(kept["draft"])
    optimizer.load_state_dict(kept["optimizer"])
    return int(kept["step"])


def _save(module: nn.Module, optimizer: torch.optim.Optimizer, step: int, checkpoint: Path) -> None:
    part = checkpoint.with_suffix(".part")
    torch.save({"draft": module.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, part)
    part.replace(checkpoint)

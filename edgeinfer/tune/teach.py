"""Teaching: the draft learns the model's own distribution, on text that the model wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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

__all__ = ["Point", "Progress", "Schedule", "teach"]

_CONTEXT_WEIGHT: Final = 0.1  # weight of a token that the assistant did not write; those it wrote count 1
_DEPTH_DECAY: Final = 0.8  # of the loss, a depth: later drafts are reached less often
# Of the target, in place of the distribution: a greedy draft must find the likeliest token. On an H200, with equal text
# and time, agreement went from .700 .722 .746 to .706 .731 .753 (benchmarks/models/drafts).
_LIKELIEST_SHARE: Final = 0.5
_DEEP_ROWS: Final = 2  # every second row is judged past the first depth, which halves the cost of the head
_SHOW_EVERY: Final = 5  # steps
_N_POINTS: Final = 12  # of the curve of agreement


@dataclass(frozen=True, slots=True)
class Schedule:
    """`n_steps` batches; warm-up, then constant, then a linear decay over the last `decay` of the steps."""

    n_steps: int
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    decay: float = 0.7

    def rate(self, step: int) -> float:
        left = (self.n_steps - step) / max(1.0, self.decay * self.n_steps)
        warmup_steps = max(1, min(self.warmup_steps, self.n_steps // 10))
        return self.learning_rate * min(1.0, (step + 1) / warmup_steps) * min(1.0, left)

    def is_judged(self, step: int) -> bool:
        """Whether the draft is judged after this number of steps: twelve times in all, and at the end."""
        return step == self.n_steps or step % max(1, self.n_steps // _N_POINTS) == 0


@dataclass(frozen=True, slots=True)
class Point:
    """The draft on held-out text after `step` steps: its agreement by depth."""

    step: int
    agreement: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    step: int
    n_steps: int
    loss: float  # cross-entropy of the first draft, nats a token
    s_per_step: float
    curve: tuple[Point, ...]  # so far


def teach(
    model: TorchModel,
    draft: Draft,
    data: Iterator[tuple[Tensor, Tensor]],
    schedule: Schedule,
    *,
    ranked: Tensor,
    judge: Callable[[], tuple[float, ...]],
    checkpoint: Path | None = None,
    save_every_s: float = 60.0,
    progress: Callable[[Progress], None] = lambda _: None,
) -> tuple[Point, ...]:
    """Teach `draft` in place with AdamW; returns what `judge` said on the way.

    `data` gives tokens [B, T] and which next tokens are the assistant's. Only the tokens of `ranked` [n] are guessed:
    the draft's capacity goes where drafts can be right, and a head of n rows costs less.

    With `checkpoint` the run resumes from that file, which is replaced every `save_every_s` seconds and at the end;
    `data` must then give the same batches again. An interruption loses the steps since the last save, so that a
    half-made step is never kept.
    """
    module = draft.module()
    ranked = ranked.to(model.device)
    optimizer = torch.optim.AdamW(module.parameters(), lr=schedule.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    first, curve = _resume(module, optimizer, checkpoint)
    for _ in range(first):
        next(data)
    began = saved = perf_counter()
    for step in range(first + 1, schedule.n_steps + 1):
        tokens, own = (part.to(model.device) for part in next(data))
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step - 1)
        loss = _step(model, draft, optimizer, (tokens, own), ranked, offset=step % _DEEP_ROWS)
        if schedule.is_judged(step):
            curve = (*curve, Point(step, judge()))
        if step % _SHOW_EVERY == 0 or step == schedule.n_steps:
            s_per_step = (perf_counter() - began) / (step - first)
            progress(Progress(step, schedule.n_steps, float(loss), s_per_step, curve))
        if checkpoint and (perf_counter() - saved > save_every_s or step == schedule.n_steps):
            _save(checkpoint, module, optimizer, step, curve)
            saved = perf_counter()
    return curve


def _step(
    model: TorchModel, draft: Draft, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor], ranked: Tensor, *,
    offset: int,
) -> Tensor:  # fmt: skip
    """Teach one batch. Returns the loss of the first depth, for the progress line."""
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
    """Of the ranked tokens, half the model's own probabilities and half its likeliest token: [B, T, n].

    They sum to less than 1, because other tokens are left out.
    """
    logits = model.logits(states)
    total = logits.float().logsumexp(-1, keepdim=True)
    probabilities = (logits[..., ranked].float() - total).exp()
    likeliest = ranked == logits.argmax(-1, keepdim=True)
    return torch.lerp(probabilities, likeliest.float(), _LIKELIEST_SHARE).to(model.dtype)


def _cross_entropy(rows: Tensor, head: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy of the draft against the model, in nats: mean over `weight`. A row counts by its target's sum."""
    logits, target = (rows @ head.T.to(rows.dtype)).float(), target.float()
    cross = logits.logsumexp(-1) * target.sum(-1) - (target * logits).sum(-1)
    return (cross * weight).sum() / weight.sum()


def _resume(
    module: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Path | None
) -> tuple[int, tuple[Point, ...]]:
    """The steps that were taken, and the curve so far."""
    if checkpoint is None or not checkpoint.exists():
        return 0, ()
    kept = torch.load(checkpoint, weights_only=True)
    module.load_state_dict(kept["draft"])
    optimizer.load_state_dict(kept["optimizer"])
    return int(kept["step"]), tuple(Point(step, tuple(agreement)) for step, agreement in kept["curve"])


def _save(
    checkpoint: Path, module: nn.Module, optimizer: torch.optim.Optimizer, step: int, curve: Sequence[Point]
) -> None:
    part = checkpoint.with_suffix(".part")
    kept = {
        "draft": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "curve": [(point.step, list(point.agreement)) for point in curve],
    }
    torch.save(kept, part)
    part.replace(checkpoint)

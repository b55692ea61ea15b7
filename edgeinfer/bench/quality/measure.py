"""One file with one K/V type on one backend: its quality against the best one, its speed and its memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from edgeinfer.bench.opened import OpenedModel, opened, text_tokens
from edgeinfer.bench.quality.tasks import share_of_right
from edgeinfer.bench.quality.use import Use, measure_use
from edgeinfer.errors import UsageError
from edgeinfer.plan.types import Request
from edgeinfer.types import KvType, Tokens

if TYPE_CHECKING:
    import numpy.typing as npt

    LogProbs: TypeAlias = npt.NDArray[np.float32]  # [positions, V], nats

__all__ = ["Reference", "Result", "Setting", "measure"]


@dataclass(frozen=True, slots=True)
class Setting:
    model: str  # a name or a path
    backend: str
    kv_type: KvType

    def request(self, context: int | None = None) -> Request:
        return Request(
            model=self.model,
            backend=self.backend,
            kv_type=self.kv_type,
            context=context,
            speculation="off",
            force=True,
        )


@dataclass(frozen=True, slots=True)
class Result:
    """`kl` is the mean over positions of KL(best || this), in nats; `top1` the share of equal most likely tokens."""

    model: str
    tier: str
    backend: str
    kv_type: str
    n_bytes: int
    perplexity: float
    kl: float
    top1: float
    tasks: float  # share of tasks with the right answer
    tokens_per_s: float  # see `Use`
    first_token_s: float
    memory_bytes: int


@dataclass(slots=True)
class Reference:
    """The text, and what the first setting predicts at each of its positions."""

    text: str
    n_tokens: int
    template: str = ""  # a Jinja file; the text then is the question of a chat
    expected: LogProbs | None = field(default=None)


def measure(setting: Setting, reference: Reference, *, quality_only: bool = False) -> Result:
    """The first call makes the reference. With `quality_only`, tasks, speed and memory are left out (0).

    Raises UsageError where the text is too short for `n_tokens`, or a vocabulary differs from the reference's.
    """
    context = max(512, -(-(reference.n_tokens + 64) // 256) * 256)
    request = setting.request(context)
    use = Use(0.0, 0.0, 0) if quality_only else measure_use(request)
    with opened(request) as subject:
        tokens = _tokens(subject, reference)
        found = log_probs(subject, tokens)
        if reference.expected is None:
            reference.expected = found
        elif reference.expected.shape != found.shape:
            raise UsageError("the files are of different models: their texts or vocabularies have other sizes")
        best = reference.expected
        plan = subject.plan
        return Result(
            model=plan.model.name,
            tier=plan.artifact.tier,
            backend=plan.backend,
            kv_type=plan.kv_type,
            n_bytes=plan.artifact.n_bytes,
            perplexity=math.exp(-float(found[np.arange(len(found)), tokens[1:]].mean(dtype=np.float64))),
            kl=float((np.exp(best) * (best - found)).sum(axis=1).mean(dtype=np.float64)),
            top1=float((best.argmax(axis=1) == found.argmax(axis=1)).mean()),
            tasks=0.0 if quality_only else share_of_right(subject),
            tokens_per_s=use.tokens_per_s,
            first_token_s=use.first_token_s,
            memory_bytes=use.memory_bytes,
        )


def _tokens(subject: OpenedModel, reference: Reference) -> Tokens:
    tokens = text_tokens(subject.model.tokenizer, reference.text, reference.template)
    if len(tokens) < reference.n_tokens:
        raise UsageError(f"the text has {len(tokens)} tokens; {reference.n_tokens} were asked for")
    return tokens[: reference.n_tokens]


def log_probs(subject: OpenedModel, tokens: Tokens) -> LogProbs:
    """[len(tokens) - 1, V]: log probabilities of the next token, after each but the last."""
    cache = subject.model.new_cache(subject.plan.window)
    parts = []
    try:
        while cache.length < len(tokens) - 1:
            at = cache.length
            n = min(subject.plan.window.room(at), subject.plan.facts.max_rows, len(tokens) - 1 - at)
            step = cache.begin(n)
            rows = np.array([row.numpy() for row in step.verify(tokens[at : at + n])], np.float32)
            step.commit(n)
            rows -= rows.max(axis=1, keepdims=True)
            parts.append(rows - np.log(np.exp(rows).sum(axis=1, keepdims=True)))
    finally:
        cache.close()
    return np.concatenate(parts)

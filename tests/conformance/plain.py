"""A case of the suite, and plain decoding, which the checks compare with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgeinfer.decode.drafters.draft_model import DraftModel
from edgeinfer.decode.drafters.early_exit import EarlyExit, ExitSource
from edgeinfer.decode.drafters.gated import Gated
from edgeinfer.decode.drafters.lookup import Lookup
from edgeinfer.decode.loop import Decoder
from edgeinfer.decode.policy.costs import Costs, RowCosts
from edgeinfer.decode.sampler import Sampler
from edgeinfer.prefill import prefill
from edgeinfer.protocols import Drafter, Model, Row
from edgeinfer.types import GREEDY as GREEDY
from edgeinfer.types import Prompt, Sampling
from edgeinfer.window import WindowPolicy
from tests.conformance.backends import POLICY, Subject
from tests.conformance.forced import Forced, Primed

SAMPLED = Sampling(temperature=0.8, top_k=40, top_p=0.95, min_p=0.02, repeat_penalty=1.1, seed=11)
DRAFT_POLICY = WindowPolicy(window=32, sink=0, block=8, limit=96)
ROWS_FREE = RowCosts(
    {1: 1e-3, 2: 1e-3}, {1: 1e-3, 2: 1e-3}, {1: 1e-3, 2: 1e-3}, 1e-6, 1e-6
)  # costs at which drafting always pays
NO_STOP: frozenset[int] = frozenset()
N_ANSWER = 190  # from a prompt of 40: past two re-anchorings at 128


@dataclass
class Case:
    """A subject with its model open."""

    subject: Subject
    model: Model
    path: Path
    policy: WindowPolicy = POLICY
    answers: dict[Any, list[int]] = field(default_factory=dict)  # of `plain_answer`, each decoded once
    rows: dict[tuple[int, ...], list[Any]] = field(default_factory=dict)  # of `plain_rows`, each text run once


Check = Callable[[Case], None]


def tokens_of(n: int, seed: int = 1) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(3, 259, n)]


def a_prompt(n: int = 40, seed: int = 1) -> Prompt:
    return Prompt(tuple(tokens_of(n, seed)), n_system=6)


def plain_rows(case: Case, tokens: Sequence[int]) -> list[Any]:
    """The row after each token, computed one at a time."""
    wanted = tuple(tokens)
    for known, rows in case.rows.items():
        if known[: len(wanted)] == wanted:
            return rows[: len(wanted)]
    cache = case.model.new_cache(case.policy)
    case.rows[wanted] = [prefill(cache, [token]).numpy().copy() for token in tokens]
    cache.close()
    return case.rows[wanted]


def plain_answer(case: Case, prompt: Prompt, how: Sampling, n: int) -> list[int]:
    key = (prompt, how, n)
    if key not in case.answers:
        case.answers[key] = decode_plainly(case, prompt, how, n)
    return case.answers[key]


def decode_plainly(case: Case, prompt: Prompt, how: Sampling, n: int) -> list[int]:
    sampler, n_prompt = Sampler(how), len(prompt.tokens)
    return told_plainly(case, prompt, n, lambda row, tokens: sampler.pick(row.numpy(), len(tokens) - n_prompt, tokens))


def rows_short_of_best(case: Case, prompt: Prompt, said: Sequence[int]) -> list[float]:
    """For each emitted token, how far its logit lies below the best of the plain row at its position."""
    short: list[float] = []

    def say(row: Row, tokens: Sequence[int]) -> int:
        logits, token = row.numpy(), said[len(tokens) - len(prompt.tokens)]
        short.append(float(logits.max() - logits[token]))
        return token

    told_plainly(case, prompt, len(said), say)
    return short


def told_plainly(case: Case, prompt: Prompt, n: int, say: Callable[[Row, Sequence[int]], int]) -> list[int]:
    """The simplest decoder: one row at a time, no drafts, with re-anchoring written out."""
    policy, tokens = case.policy, list(prompt.tokens)
    cache = case.model.new_cache(policy)
    row = prefill(cache, tokens)
    while True:
        tokens.append(say(row, tokens))
        if len(tokens) == len(prompt.tokens) + n:
            cache.close()
            return tokens[len(prompt.tokens) :]
        if cache.length == policy.limit:
            cache.rewind(0)
            prefill(cache, tokens[: prompt.n_system] + tokens[:-1][-(policy.window // 2) :])
        row = prefill(cache, tokens[-1:])


def assert_rows(case: Case, got: Any, expected: Any, n_rows: int) -> None:
    """Asserts that rows are equal bit for bit where the backend promises it for this number of rows, else close."""
    if case.model.exact_rows is not None and n_rows <= case.model.exact_rows:
        assert np.array_equal(got, expected)
    else:
        assert np.abs(got - expected).max() <= case.subject.tolerance


def drafter_for(case: Case, name: str, truth: Sequence[int], n_prompt: int) -> Drafter:
    def wrong(index: int) -> bool:
        return index % 7 == 3 or index % 11 == 0

    if name == "lookup":
        return Primed(Lookup(), [token if index % 9 else 255 for index, token in enumerate(truth)])
    if name == "early-exit":
        return EarlyExit()
    if name == "gated-early":
        return Gated(ExitSource(), Costs(ROWS_FREE, 16))
    if name == "draft":  # the same model with another window: it agrees until that window wraps
        return Gated(DraftModel(case.model, DRAFT_POLICY), Costs(ROWS_FREE, 16))
    return Forced(truth, n_prompt, wrong, early=name == "forced-early")


def answer(decoder: Decoder, prompt: Prompt, how: Sampling, n: int, stop: frozenset[int] = NO_STOP) -> list[int]:
    return list(decoder.stream(prompt, how, max_tokens=n, stop_tokens=stop))

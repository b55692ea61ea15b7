"""Checks of `Model.run` with asks of several conversations: each gets the rows that it would get alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from edgeinfer.decode.loop import Decoder
from edgeinfer.decode.policy.arms import Arm, Fixed
from edgeinfer.errors import EngineError, UsageError
from edgeinfer.prefill import prefill
from edgeinfer.protocols import Ask, Cache
from edgeinfer.types import Prompt, Sampling
from tests.conformance.forced import Breaking, Forced, rows_of
from tests.conformance.plain import (
    GREEDY,
    NO_STOP,
    Case,
    a_prompt,
    assert_rows,
    plain_answer,
    plain_rows,
    rows_short_of_best,
    tokens_of,
)

N_TOGETHER = 3


@dataclass
class Conversation:
    """A cache, its tokens, and the plain row after each of them."""

    cache: Cache
    tokens: Sequence[int]
    expected: Sequence[Any]
    kinds: set[str] = field(default_factory=set)  # rows of the asks that it has made

    @property
    def done(self) -> bool:
        return self.cache.length == len(self.tokens)


@dataclass
class Planned:
    """One ask, of which the first `keep` tokens are kept."""

    of: Conversation
    ask: Ask
    keep: int


def conversations(case: Case, n: int = N_TOGETHER) -> list[Conversation]:
    """Tokens up to the limit of the policy, past evictions."""
    tokens = [tokens_of(case.policy.limit, seed) for seed in range(40, 40 + n)]
    expected = [plain_rows(case, told) for told in tokens]
    return [
        Conversation(case.model.new_cache(case.policy), told, rows) for told, rows in zip(tokens, expected, strict=True)
    ]


def plan_ask(case: Case, of: Conversation, rng: np.random.Generator) -> Planned:
    """A verify (partly wrong, with or without drafting) or a chunk of a prompt."""
    at = of.cache.length
    room = min(case.policy.room(at), len(of.tokens) - at)
    if rng.random() < 0.3:
        n = min(room, int(rng.integers(2, 14)))
        n_rows = int(rng.integers(0, 2))
        of.kinds.add(f"chunk, {n_rows} rows")
        return Planned(of, Ask(of.cache.begin(n), of.tokens[at : at + n], n_rows), n)
    n = min(room, int(rng.integers(1, 5)))
    keep = int(rng.integers(0, n + 1))
    told = [*of.tokens[at : at + keep], *tokens_of(n - keep, at + 1000)]
    step = of.cache.begin(n)
    if case.model.drafts_with and rng.random() < 0.5:
        of.kinds.add("drafted")
        for token in told[: int(rng.integers(1, n + 1))]:
            step.draft(token)
    of.kinds.add("rolled back" if keep == 0 else "kept")
    return Planned(of, Ask(step, told, n), keep)


def finish(case: Case, plan: Planned, rows: Sequence[Any], n_rows: int) -> None:
    at, n = plan.of.cache.length, len(plan.ask.tokens)
    assert len(rows) == plan.ask.n_rows
    for index, row in enumerate(rows, n - plan.ask.n_rows):
        if index < plan.keep:
            assert_rows(case, row, plan.of.expected[at + index], n_rows)
    if plan.keep:
        plan.ask.round.commit(plan.keep)
    else:
        plan.ask.round.rollback()
    assert plan.of.cache.length == at + plan.keep


def check_together(case: Case) -> None:
    """Asks of any kind, order and length, some rolled back, up to the limit."""
    rng, together, sizes = np.random.default_rng(6), conversations(case), set()
    while running := [one for one in together if not one.done]:
        n = int(rng.integers(1, len(running) + 1))
        plans = [plan_ask(case, one, rng) for one in rng.permutation(np.array(running, object))[:n]]
        found = [rows_of(rows) for rows in case.model.run([plan.ask for plan in plans])]
        for plan, rows in zip(plans, found, strict=True):
            finish(case, plan, rows, len(plan.ask.tokens))
        sizes.add(len(plans))
    assert sizes == set(range(1, N_TOGETHER + 1))
    for one in together:
        assert len(case.policy.evicted(one.cache.length)) >= 3 * case.policy.block
        assert one.kinds >= {"chunk, 0 rows", "chunk, 1 rows", "rolled back", "kept"}
        one.cache.close()


def check_rows_in_step(case: Case) -> None:
    """Plain rounds of all conversations, step by step to the limit, each at another position."""
    together = conversations(case)
    for index, one in enumerate(together):
        if index:
            prefill_exactly(case, one, 5 * index)
    while running := [one for one in together if not one.done]:
        plans = [
            Planned(one, Ask(one.cache.begin(1), [one.tokens[one.cache.length]], 1), 1) for one in reversed(running)
        ]
        found = [rows_of(rows) for rows in case.model.run([plan.ask for plan in plans])]
        for plan, rows in zip(plans, found, strict=True):
            finish(case, plan, rows, 1)
    for one in together:
        one.cache.close()


def prefill_exactly(case: Case, one: Conversation, n: int) -> None:
    for token in one.tokens[:n]:
        prefill(one.cache, [token])


def check_bad_token(case: Case) -> None:
    """A token outside the vocabulary is refused before any ask begins, so the other asks can still run."""
    first, second, last = together = conversations(case)
    for bad in (-1, case.model.tokenizer.n_vocab):
        for one in together:
            while one.cache.length < 30:
                prefill_exactly_from(one)
        plans = [Planned(one, Ask(one.cache.begin(2), one.tokens[30:32], 2), 2) for one in (first, last)]
        spoiled = Ask(second.cache.begin(2), [second.tokens[30], bad], 2)
        with pytest.raises(UsageError):
            case.model.run([plans[0].ask, spoiled, plans[1].ask])
        spoiled.round.rollback()
        found = [rows_of(rows) for rows in case.model.run([plan.ask for plan in plans])]
        for plan, rows in zip(plans, found, strict=True):
            finish(case, plan, rows, 2)
        for one in together:
            prefill_exactly_from(one, case)
            one.cache.rewind(0)
    for one in together:
        one.cache.close()


def check_failing_step(case: Case) -> None:
    """When the engine fails in a step, all of its rounds are rolled back, and the conversations continue as before."""
    first, second, last = together = conversations(case)
    model = Breaking(case.model, "verify", at=1)
    for length in (30, 90):
        for one in together:
            while one.cache.length < length:
                prefill_exactly_from(one)
        opened = [one.cache.begin(2) for one in (first, second)]
        asks = [
            Ask(model.broken(step), one.tokens[length : length + 2], 2)
            for step, one in zip(opened, (first, second), strict=True)
        ]
        with pytest.raises(EngineError):
            model.run(asks)
        for step in opened:
            step.rollback()
        for one in (first, second, last):
            assert one.cache.length == length
            prefill_exactly_from(one, case)
        model.fail_at(1)
    for one in together:
        one.cache.close()


def prefill_exactly_from(one: Conversation, case: Case | None = None) -> None:
    at = one.cache.length
    row = prefill(one.cache, [one.tokens[at]]).numpy()
    if case is not None:
        assert_rows(case, row, one.expected[at], 1)


def check_closing_neighbor(case: Case) -> None:
    """One conversation closes in the middle of its round and another takes its place. The others are unaffected."""
    stays, leaves, last = conversations(case)
    for _ in range(2):
        for one in (stays, leaves, last):
            for _ in range(20):
                prefill_exactly_from(one, case)
        open_round = leaves.cache.begin(2)
        case.model.run([Ask(open_round, leaves.tokens[20:22], 2)])
        leaves.cache.close()
        open_round.rollback()
        leaves = Conversation(case.model.new_cache(case.policy), leaves.tokens, leaves.expected)
        step = [Ask(one.cache.begin(1), [one.tokens[one.cache.length]], 1) for one in (last, leaves, stays)]
        found = [rows_of(rows) for rows in case.model.run(step)]
        for one, ask, rows in zip((last, leaves, stays), step, found, strict=True):
            finish(case, Planned(one, ask, 1), rows, 1)
        leaves.cache.rewind(0)
    for one in (stays, leaves, last):
        one.cache.close()


def check_neighbor_that_left(case: Case) -> None:
    """The conversation between two others closes, past evictions; the two continue to the limit."""
    first, between, last = conversations(case)
    for index, one in enumerate((first, between, last)):
        for _ in range(case.policy.window + 20 + 5 * index):
            prefill_exactly_from(one)
    between.cache.close()
    while running := [one for one in (last, first) if not one.done]:
        plans = [Planned(one, Ask(one.cache.begin(1), [one.tokens[one.cache.length]], 1), 1) for one in running]
        found = [rows_of(rows) for rows in case.model.run([plan.ask for plan in plans])]
        for plan, rows in zip(plans, found, strict=True):
            finish(case, plan, rows, 1)
    for one in (first, last):
        one.cache.close()


def check_decoders(case: Case, how: Sampling) -> None:
    """Decoders in step, each at another point of its answer, give the tokens that each gives alone."""
    prompts = [a_prompt(40 + 17 * index, 30 + index) for index in range(N_TOGETHER)]
    exact, n = case.model.exact_rows is not None, 150
    expected = [plain_answer(case, prompt, how, n) for prompt in prompts]
    decoders = [decoder_for(case, prompts[depth], expected[depth], depth) for depth in range(N_TOGETHER)]
    told = in_step(case, decoders, prompts, how, n)
    for decoder, prompt, got, alone in zip(decoders, prompts, told, expected, strict=True):
        assert decoder.stats.reanchored >= 1 and decoder.stats.finish == "length"
        decoder.close()
        if exact:
            assert got == alone
        else:
            assert max(rows_short_of_best(case, prompt, got)) <= 2 * case.subject.tolerance
    assert decoders[1].stats.accepted > 0


def decoder_for(case: Case, prompt: Prompt, truth: Sequence[int], depth: int) -> Decoder:
    forced = Forced(truth, len(prompt.tokens), lambda index: index % 5 == 0, early=bool(case.model.drafts_with))
    arm = Fixed(Arm("forced", depth)) if depth else Fixed()
    return Decoder(case.model, case.policy, controller=arm, drafters={"forced": forced})


def in_step(
    case: Case, decoders: Sequence[Decoder], prompts: Sequence[Prompt], how: Sampling, n: int
) -> list[list[int]]:
    told: list[list[int]] = [[] for _ in decoders]
    for decoder, prompt in zip(decoders, prompts, strict=True):
        decoder.start(prompt, how, max_tokens=n, stop_tokens=NO_STOP)
    while running := [index for index, decoder in enumerate(decoders) if decoder.running]:
        rows = case.model.run([decoders[index].begin() for index in running])
        for index, found in zip(running, rows, strict=True):
            told[index] += decoders[index].end(found)
    return told


def check_a_decoder_that_stops(case: Case) -> None:
    """One decoder stops between `run` and `end`. The other's answer and its own next answer are exact."""
    prompts = [a_prompt(40, 30), a_prompt(57, 31)]
    expected = [plain_answer(case, prompt, GREEDY, 60) for prompt in prompts]
    stays, leaves = decoders = [Decoder(case.model, case.policy) for _ in prompts]
    told: list[int] = []
    for decoder, prompt in zip(decoders, prompts, strict=True):
        decoder.start(prompt, GREEDY, max_tokens=60, stop_tokens=NO_STOP)
    while stays.running:
        running = [decoder for decoder in decoders if decoder.running]
        rows = case.model.run([decoder.begin() for decoder in running])
        told += stays.end(rows[0])
        if leaves.running and leaves.stats.emitted == 9:
            leaves.stop()
        elif leaves.running:
            leaves.end(rows[1])
    assert told == expected[0]
    assert (leaves.stats.finish, leaves.stats.emitted) == ("canceled", 9)
    assert list(leaves.stream(prompts[1], GREEDY, max_tokens=60, stop_tokens=NO_STOP)) == expected[1]
    for decoder in decoders:
        decoder.close()

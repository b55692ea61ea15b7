"""What every backend must do, one function per check. The suite runs them on backends, the mutants on broken ones.

Each check compares with plain decoding (one row at a time, no rounds, no loop) or with the oracle. Each also asserts
its precondition: a check of the wrap asserts that the window wrapped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import cycle, islice

import numpy as np
import pytest

from edgeinfer.backends import facts_of
from edgeinfer.decode.loop import Decoder
from edgeinfer.decode.policy.arms import Arm, Fixed
from edgeinfer.errors import EdgeInferError, EngineError, RewindError, UsageError
from edgeinfer.formats import read_header, shape_from_gguf
from edgeinfer.prefill import prefill
from edgeinfer.types import Prompt, Sampling
from edgeinfer.window import WindowPolicy
from tests.conformance.forced import Breaking, Forced, rows_of
from tests.conformance.oracle import oracle_logits, visible
from tests.conformance.plain import (
    GREEDY,
    N_ANSWER,
    NO_STOP,
    Case,
    a_prompt,
    answer,
    assert_rows,
    drafter_for,
    plain_answer,
    plain_rows,
    rows_short_of_best,
    tokens_of,
)


def goes_past_evictions(policy: WindowPolicy) -> bool:
    """Whether three blocks were evicted in an answer that reached the limit and was re-anchored."""
    return len(policy.evicted(policy.limit - 1)) >= 3 * policy.block


def check_lossless_but_for_ties(case: Case, name: str) -> None:
    """Greedy, where rows are only close: every token is the best of its plain row, up to rounding."""
    prompt = a_prompt()
    expected = plain_answer(case, prompt, GREEDY, N_ANSWER)
    drafter = drafter_for(case, name, expected, len(prompt.tokens))
    decoder = Decoder(case.model, case.policy, controller=Fixed(Arm(name, 5)), drafters={name: drafter})
    got = answer(decoder, prompt, GREEDY, N_ANSWER)
    decoder.close()
    assert 0 < decoder.stats.accepted < decoder.stats.drafted
    assert decoder.stats.reanchored >= 2
    assert decoder.stats.evicted >= 3 * case.policy.block
    assert goes_past_evictions(case.policy)
    short = rows_short_of_best(case, prompt, got)
    assert len(short) == N_ANSWER
    assert max(short) <= 2 * case.subject.tolerance


def check_lossless(case: Case, name: str, how: Sampling, *, depth: int = 5) -> None:
    prompt = a_prompt()
    expected = plain_answer(case, prompt, how, N_ANSWER)
    drafter = drafter_for(case, name, expected, len(prompt.tokens))
    decoder = Decoder(case.model, case.policy, controller=Fixed(Arm(name, depth)), drafters={name: drafter})
    got = answer(decoder, prompt, how, N_ANSWER)
    decoder.close()
    assert got == expected
    stats = decoder.stats
    assert stats.reanchored >= 2
    assert stats.evicted >= 3 * case.policy.block
    assert goes_past_evictions(case.policy)
    assert 0 < stats.accepted < stats.drafted
    assert stats.emitted == N_ANSWER
    assert sum(arm.emitted for arm in stats.arms.values()) == N_ANSWER - 1


def check_plain(case: Case, how: Sampling) -> None:
    """The loop without a drafter is plain decoding."""
    prompt = a_prompt()
    decoder = Decoder(case.model, case.policy)
    assert answer(decoder, prompt, how, N_ANSWER) == plain_answer(case, prompt, how, N_ANSWER)
    assert decoder.stats.reanchored >= 2
    decoder.close()


def check_oracle(case: Case) -> None:
    """Rows of rounds of every size, some with a rejected suffix, against float64 without a cache."""
    policy, tokens = case.policy, tokens_of(case.policy.limit)
    expected = oracle_logits(case.path, tokens, visible(len(tokens), policy.window, policy.sink, policy.block))
    cache, rng, worst = case.model.new_cache(policy), np.random.default_rng(2), 0.0
    prefill(cache, tokens[:30])
    for size in cycle([1, 3, 8, 2, 16, 5]):
        at = cache.length
        if not policy.room(at):
            break
        size = min(size, policy.room(at))
        keep = int(rng.integers(1, size + 1))
        step = cache.begin(size)
        rows = rows_of(step.verify([*tokens[at : at + keep], *tokens_of(size - keep, at)]))[:keep]
        worst = max(worst, np.abs(np.array(rows) - expected[at : at + keep]).max())
        step.commit(keep)
    assert cache.length == policy.limit and len(policy.evicted(cache.length)) >= 4 * policy.block
    cache.close()
    assert worst <= case.subject.oracle_tolerance


def check_chunks(case: Case) -> None:
    """Rounds and prefills of any length give the same rows."""
    tokens = tokens_of(case.policy.limit)
    expected = plain_rows(case, tokens)
    for sizes in ([8], [1, 7, 16, 3], [64]):
        cache = case.model.new_cache(case.policy)
        for size in cycle(sizes):
            room = case.policy.room(cache.length)
            if not room:
                break
            at, n = cache.length, min(size, room)
            step = cache.begin(n)
            for index, row in enumerate(step.verify(tokens[at : at + n])):
                assert_rows(case, row.numpy(), expected[at + index], n)
            step.commit(n)
        cache.close()
    for first in (1, 63, 64, 65, 100):
        cache = case.model.new_cache(case.policy)
        assert_rows(case, prefill(cache, tokens[:first]).numpy(), expected[first - 1], first)
        assert_rows(case, prefill(cache, tokens[first:]).numpy(), expected[-1], len(tokens) - first)
        cache.close()


def check_rounds(case: Case) -> None:
    """Rounds of any number of rows, with and without drafts; any number of them is kept. The next round is exact."""
    policy, tokens = case.policy, tokens_of(case.policy.limit)
    expected = plain_rows(case, tokens)
    most_drafts = 4 if case.model.drafts_with else 0
    plans = [(rows, keep, drafts) for rows in (1, 2, 3, 4) for keep in range(rows + 1) for drafts in range(rows + 1)]
    cache, done = case.model.new_cache(policy), 0
    prefill(cache, tokens[:50])
    for rows, keep, drafts in plans:
        if policy.room(cache.length) < 4:
            prefill(cache, tokens[cache.length : cache.length + policy.room(cache.length)])
        if cache.length > policy.limit - 8:
            cache.rewind(0)
            prefill(cache, tokens[:50])
        at = cache.length
        asked = [*tokens[at : at + keep], *tokens_of(rows - keep, at + 1000)]
        step = cache.begin(rows)
        for token in asked[: min(drafts, most_drafts)]:
            step.draft(token)
        for index, row in enumerate(rows_of(step.verify(asked))[: keep or 1]):
            if index < keep:
                assert_rows(case, row, expected[at + index], rows)
        step.commit(keep)
        assert cache.length == at + keep
        done += at > policy.window
    assert done > len(plans) // 3  # rounds past the wrap
    cache.close()


def check_rollback(case: Case) -> None:
    """A round that is rolled back at any point leaves no trace."""
    tokens = tokens_of(120)
    expected = plain_rows(case, tokens)
    cache = case.model.new_cache(case.policy)
    prefill(cache, tokens[:61])
    while cache.length < 115:
        at = cache.length
        n = min(3, case.policy.room(at))
        for stage in ("begin", "draft", "verify"):
            step = cache.begin(n)
            if stage != "begin" and case.model.drafts_with:
                for token in tokens_of(n, 7):
                    step.draft(token)
            if stage == "verify":
                step.verify(tokens_of(n, 8))
            step.rollback()
            step.rollback()  # a second one does nothing
            assert cache.length == at
        assert_rows(case, prefill(cache, tokens[at : at + 1]).numpy(), expected[at], 1)
    cache.close()


def check_other_than_drafted(case: Case) -> None:
    """Verified tokens need not be those that were drafted: states of the wrong ones must not be used."""
    if not case.model.drafts_with:
        pytest.skip("this model does not draft")
    tokens = tokens_of(100)
    expected = plain_rows(case, tokens)
    cache = case.model.new_cache(case.policy)
    for start, stop in ((0, 60), (60, 70)):  # llama.cpp's attention rounds 64 rows at once in another way
        prefill(cache, tokens[start:stop])
    for at in (70, 73, 76):
        step = cache.begin(3)
        for token in (tokens[at], 250, 251):
            step.draft(token)
        for index, row in enumerate(rows_of(step.verify(tokens[at : at + 3]))):
            assert_rows(case, row, expected[at + index], 3)
        step.commit(3)
    assert_rows(case, prefill(cache, tokens[79:80]).numpy(), expected[79], 1)
    cache.close()


def check_rewind(case: Case) -> None:
    """A rewind reaches any position before the first eviction, later any in the block. Others change nothing."""
    tokens = tokens_of(120)
    expected = plain_rows(case, tokens)
    cache = case.model.new_cache(case.policy)
    prefill(cache, tokens_of(60, 9))
    cache.rewind(0)
    prefill(cache, [*tokens[:20], *tokens_of(40, 10)])
    cache.rewind(20)
    prefill(cache, tokens[20:100])
    cache.rewind(97)
    prefill(cache, tokens_of(14, 11))
    cache.rewind(97)
    assert_rows(case, prefill(cache, tokens[97:98]).numpy(), expected[97], 1)
    with pytest.raises(RewindError):
        cache.rewind(90)
    assert cache.length == 98
    assert_rows(case, prefill(cache, tokens[98:99]).numpy(), expected[98], 1)
    cache.rewind(0)  # clearing is always possible
    prefill(cache, tokens[:30])
    assert_rows(case, prefill(cache, tokens[30:31]).numpy(), expected[30], 1)
    cache.close()


def check_bytes(case: Case) -> None:
    """The bytes equal a sum by hand and the estimate of the plan."""
    tiny, pad = case.subject.tiny, case.subject.pad_slots
    shape = shape_from_gguf(read_header(case.path))
    for policy in (case.policy, WindowPolicy(512, 128, 64, 2048)):
        slots = -(-policy.slots // pad) * pad
        group, scale_bytes = case.subject.kv_group
        scales = -(-tiny.head_dim // group) * scale_bytes
        row = {"f32": tiny.head_dim * 4, "f16": tiny.head_dim * 2}
        row |= {"q8_0": tiny.head_dim + scales, "q4_0": tiny.head_dim // 2 + scales}
        k, _, v = case.subject.kv_type.partition("/")
        cache = case.model.new_cache(policy)
        assert cache.n_bytes == tiny.n_layers * tiny.n_kv_heads * slots * (row[k] + row[v or k])
        backend = case.subject.name.split("-")[0]
        assert cache.n_bytes == facts_of(backend).kv_bytes(shape, policy, case.subject.kv_type)
        cache.close()


def check_misuse(case: Case) -> None:
    """Misuse raises an EdgeInferError, and the cache continues unchanged."""
    tokens = tokens_of(160)
    expected = plain_rows(case, tokens[:61])
    cache = case.model.new_cache(case.policy)
    prefill(cache, tokens[:60])
    idle: tuple[Callable[[], object], ...] = (
        lambda: cache.begin(5),  # room for 4
        lambda: cache.begin(0),
        lambda: prefill(cache, []),
        lambda: prefill(cache, tokens[:101]),  # past the limit
        lambda: cache.rewind(61),
        lambda: cache.rewind(-1),
    )
    for bad in idle:
        with pytest.raises(EdgeInferError):
            bad()
        assert cache.length == 60
    step = cache.begin(2)
    opened: tuple[Callable[[], object], ...] = (
        lambda: cache.begin(1),  # one round at a time
        lambda: prefill(cache, [5]),
        lambda: cache.rewind(0),
        lambda: step.verify(tokens[:3]),  # more rows than it was opened for
        lambda: step.commit(1),  # nothing was verified
    )
    for bad in opened:
        with pytest.raises(EdgeInferError):
            bad()
    step.verify(tokens[60:62])
    verified: tuple[Callable[[], object], ...] = (
        lambda: step.verify(tokens[60:62]),  # once a round
        lambda: step.draft(5),  # before it verifies
        lambda: step.commit(3),
    )
    for bad in verified:
        with pytest.raises(EdgeInferError):
            bad()
    step.commit(0)
    with pytest.raises(EdgeInferError):
        step.commit(1)
    assert_rows(case, prefill(cache, tokens[60:61]).numpy(), expected[60], 1)
    cache.close()
    cache.close()


def rounds_of_six(case: Case, how: Sampling) -> tuple[Prompt, list[int], Decoder]:
    """A decoder that accepts all its drafts: after the first token, rounds of six."""
    prompt = a_prompt(61)
    truth = plain_answer(case, prompt, how, 80)
    forced = Forced(truth, len(prompt.tokens), lambda index: False, early=bool(case.model.drafts_with))
    decoder = Decoder(case.model, case.policy, controller=Fixed(Arm("forced", 5)), drafters={"forced": forced})
    return prompt, truth, decoder


def check_next_is_exact(case: Case, decoder: Decoder, prompt: Prompt, tokens: Sequence[int], how: Sampling) -> None:
    """A follow-up question, compared with a new decoder."""
    following = Prompt((*prompt.tokens, *tokens, *tokens_of(12, 5)), prompt.n_system)
    fresh = Decoder(case.model, case.policy)
    assert answer(decoder, following, how, 40) == answer(fresh, following, how, 40)
    fresh.close()


def check_stop(case: Case, how: Sampling) -> None:
    """A stop token inside an accepted draft ends the answer there, and nothing after it stays in the cache."""
    prompt, truth, decoder = rounds_of_six(case, how)
    n = len(prompt.tokens)
    inside = [k for k in range(2, 60) if truth[k] not in truth[:k] and case.policy.room(n + k - 1) > 1]
    assert len(inside) > 3
    for k in inside[:4]:
        got = answer(decoder, prompt, how, 80, frozenset({truth[k]}))
        assert got == truth[: k + 1]
        assert decoder.stats.finish == "stop"
        assert decoder.cache.length == n + k  # the stop token itself is not run
    assert decoder.stats.accepted > 0
    held = decoder.cache.length
    check_next_is_exact(case, decoder, prompt, truth[: inside[3] + 1], how)
    assert (decoder.stats.reused, decoder.stats.reprefilled) == (held, 0)
    decoder.close()


def check_max_tokens(case: Case, how: Sampling) -> None:
    prompt, truth, decoder = rounds_of_six(case, how)
    for n in (1, 2, 5, 9, 10, 30):
        assert answer(decoder, prompt, how, n) == truth[:n]
        assert decoder.stats.finish == "length"
        assert decoder.cache.length == len(prompt.tokens) + n - 1
    check_next_is_exact(case, decoder, prompt, truth[:30], how)
    decoder.close()


def check_walk_away(case: Case, how: Sampling) -> None:
    """The reader leaves between two tokens of a round. The next answer is exact, wherever it continues."""
    prompt, truth, decoder = rounds_of_six(case, how)
    for n, unread in ((1, 0), (2, 2), (7, 3), (10, 0)):  # the rounds emit 3 tokens, up to the block's end, then 6
        reader = decoder.stream(prompt, how, max_tokens=80, stop_tokens=NO_STOP)
        assert list(islice(reader, n)) == truth[:n]
        reader.close()  # type: ignore[attr-defined]
        assert decoder.stats.finish == "canceled" and decoder.stats.emitted == n
        assert decoder.cache.length == len(prompt.tokens) + n - 1 + unread
        check_next_is_exact(case, decoder, prompt, truth[:n], how)
    decoder.close()


def check_engine_error(case: Case, verb: str, how: Sampling) -> None:
    """The engine fails inside a round: one error, and the next answer is exact."""
    prompt, truth, unbroken = rounds_of_six(case, how)
    unbroken.close()
    forced = Forced(truth, len(prompt.tokens), lambda index: index % 5 == 0, early=bool(case.model.drafts_with))
    for at in (1, 4):
        broken = Breaking(case.model, verb, at)
        decoder = Decoder(broken, case.policy, controller=Fixed(Arm("forced", 5)), drafters={"forced": forced})
        got = []
        with pytest.raises(EngineError, match="gave up"):
            for token in decoder.stream(prompt, how, max_tokens=80, stop_tokens=NO_STOP):
                got.append(token)
        assert got == truth[: len(got)]
        check_next_is_exact(case, decoder, prompt, got, how)
        assert answer(decoder, prompt, how, 80) == truth
        decoder.close()


def check_close(case: Case) -> None:
    """Cache and model are closed twice, in either order. Later use raises an error or does nothing."""
    model = case.subject.open(case.path)
    cache = model.new_cache(case.policy)
    prefill(cache, [5, 6])
    step = cache.begin(2)
    if model.drafts_with:
        step.draft(7)
    cache.close()
    cache.close()
    for use in (lambda: step.verify([7, 8]), step.rollback, lambda: cache.rewind(0), lambda: prefill(cache, [5])):
        with suppress(EdgeInferError):  # an error or nothing, but no access to freed memory
            use()
    with pytest.raises(EdgeInferError):
        prefill(cache, [5])
    other = model.new_cache(case.policy)
    model.close()
    model.close()
    other.close()


def check_bad_token(case: Case) -> None:
    cache = case.model.new_cache(case.policy)
    for bad in (-1, case.model.tokenizer.n_vocab):
        with pytest.raises((UsageError, EngineError)):
            prefill(cache, [5, bad])
    cache.close()

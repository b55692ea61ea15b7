"""Checks of taught drafts on every backend that runs them: rows equal the oracle's after any history."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from edgeinfer.errors import ArtifactError
from edgeinfer.formats.draft_file import read_draft_for
from edgeinfer.formats.gguf_header import read_header
from edgeinfer.formats.shape import shape_from_gguf
from edgeinfer.prefill import prefill
from edgeinfer.protocols import Ask, Cache
from tests.conformance.draft_oracle import draft_rows
from tests.conformance.oracle import visible
from tests.conformance.plain import Case, tokens_of
from tests.tiny_draft import draft_beside, write_tiny_draft
from tests.tiny_gguf import Tiny, write_tiny


def check_draft_rows(case: Case) -> None:
    """Rounds with all, some or no drafts accepted, without drafts, or rolled back; and chunks; past evictions."""
    tokens = tokens_of(case.policy.limit)
    cache = case.model.new_cache(case.policy)
    prefill(cache, tokens[:30])
    rng, accepted, wrapped = np.random.default_rng(4), set(), 0
    while cache.policy.room(cache.length) and cache.length < case.policy.limit - 4:
        at, room = cache.length, min(4, cache.policy.room(cache.length))
        drafted = int(rng.integers(0, room + 1))
        right = int(rng.integers(0, drafted + 1)) if drafted else 0
        chain = [*tokens[at : at + max(right, 1)], *tokens_of(drafted, at)][:drafted]
        step = cache.begin(room)
        rows = [step.draft(token).numpy() for token in chain]
        assert_draft_rows(case, tokens[:at], chain, rows)
        if rng.random() < 0.15:
            step.rollback()
            continue
        keep = max(1, right)
        step.verify([*tokens[at : at + keep], *chain[keep:]])
        step.commit(keep)
        accepted.add((drafted, keep))
        wrapped += at > case.policy.window
        if rng.random() < 0.15 and cache.policy.room(cache.length) > 2:
            prefill(cache, tokens[cache.length : cache.length + 2])
    cache.close()
    assert wrapped > 10 and len(accepted) > 6 and (3, 3) in accepted


def check_draft_rows_after_rewind(case: Case) -> None:
    """Rewinds within the kept states and to the start, then continues with other tokens."""
    tokens, others = tokens_of(60), tokens_of(60, 7)
    cache = case.model.new_cache(case.policy)
    prefill(cache, tokens[:40])
    draft_once(case, cache, tokens[:40], tokens[40])
    cache.rewind(25)
    prefill(cache, others[25:30])
    draft_once(case, cache, [*tokens[:25], *others[25:30]], 9)
    cache.rewind(28)
    draft_once(case, cache, [*tokens[:25], *others[25:28]], 11)
    cache.rewind(0)
    prefill(cache, others[:12])
    draft_once(case, cache, others[:12], 12)
    cache.close()


def check_draft_rows_together(case: Case) -> None:
    """Conversations that share forwards draft from states of their own, past evictions."""
    if case.model.n_caches < 2:
        pytest.skip("one conversation")
    tokens = [tokens_of(110, seed) for seed in (50, 51)]
    caches = [case.model.new_cache(case.policy) for _ in tokens]
    for cache, own, n in zip(caches, tokens, (30, 47), strict=True):
        prefill(cache, own[:n])
    for _ in range(24):
        asks = []
        for cache, own in zip(caches, tokens, strict=True):
            at, n = cache.length, min(2, case.policy.room(cache.length))
            step = cache.begin(n)
            assert_draft_rows(case, own[:at], own[at : at + 1], [step.draft(own[at]).numpy()])
            asks.append(Ask(step, own[at : at + n], n))
        for ask, rows in zip(asks, case.model.run(asks), strict=True):
            assert len(rows) == len(ask.tokens)
            ask.round.commit(len(ask.tokens))
    assert all(case.policy.evicted(cache.length) for cache in caches)
    for cache in caches:
        cache.close()


def check_draft_rows_after_neighbors(case: Case) -> None:
    """A conversation drafts, continues beside others without drafts while some leave and come, and drafts again."""
    if case.model.n_caches < 4:
        pytest.skip("fewer than four conversations")
    tokens = [tokens_of(110, seed) for seed in (52, 53, 54)]
    first, leaves, last = caches = [case.model.new_cache(case.policy) for _ in tokens]
    for cache, own, n in zip(caches, tokens, (41, 20, 35), strict=True):
        prefill(cache, own[:n])
        draft_once(case, cache, own[:n], own[n])
    leaves.close()
    for _ in range(30):
        asks = [Ask(cache.begin(1), [own[cache.length]], 1) for cache, own in ((first, tokens[0]), (last, tokens[2]))]
        case.model.run(asks)
        for ask in asks:
            ask.round.commit(1)
    comes = case.model.new_cache(case.policy)
    prefill(comes, tokens[1][:25])
    for cache, own in ((last, tokens[2]), (comes, tokens[1]), (first, tokens[0])):
        draft_once(case, cache, own[: cache.length], own[cache.length])
        assert cache is comes or case.policy.evicted(cache.length)
    for cache in (first, last, comes):
        cache.close()


def draft_once(case: Case, cache: Cache, before: Sequence[int], token: int) -> None:
    step = cache.begin(3)
    chain = [token, *tokens_of(1, 3)]
    rows = [step.draft(one).numpy() for one in chain]
    step.rollback()
    assert_draft_rows(case, before, chain, rows)


def check_draft_of_another_model(case: Case) -> None:
    """The draft is refused, and the message names the model that it was taught to."""
    other = write_tiny(case.path.with_name("other.gguf"), Tiny(n_layers=5))
    draft = write_tiny_draft(draft_beside(other), other, (1, 2))
    with pytest.raises(ArtifactError, match=r"another model: it was taught to org/tiny: .*n_layers 5, the model has 4"):
        read_draft_for(draft, shape_from_gguf(read_header(case.path)))


def assert_draft_rows(case: Case, before: Sequence[int], chain: Sequence[int], rows: Sequence[object]) -> None:
    if not chain:
        return
    policy, n = case.policy, len(before) + len(chain)
    seen = visible(n, policy.window, policy.sink, policy.block)
    expected = draft_rows(case.path, draft_beside(case.path), list(before), chain, seen)
    got = np.array(rows)
    can_say = np.isfinite(expected)
    assert np.array_equal(np.isfinite(got), can_say)
    worst = np.abs(got[can_say] - expected[can_say]).max()
    assert worst <= case.subject.draft_tolerance, worst

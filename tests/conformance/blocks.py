"""What `BlockCache` must do: a cache that is filled from blocks continues like one that ran the tokens."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from edgeinfer.errors import EngineError
from edgeinfer.prefill import prefill
from edgeinfer.protocols import BlockCache
from tests.conformance.plain import Case, assert_rows, plain_rows, tokens_of


def block_cache(case: Case) -> BlockCache:
    cache = case.model.new_cache(case.policy)
    if not isinstance(cache, BlockCache):
        cache.close()
        pytest.skip("this backend does not take K and V apart")
    assert cache.block_format
    return cache


def taken(cache: BlockCache, spans: Sequence[range]) -> list[bytes]:
    blocks = [block for block in cache.snapshot(spans) if block is not None]
    assert len(blocks) == len(spans)
    return blocks


def check_blocks(case: Case) -> None:
    """Restores every number of blocks, then runs chunks or single tokens past evictions to the limit."""
    policy, tokens = case.policy, tokens_of(case.policy.limit, 77)
    expected = plain_rows(case, tokens)
    spans = [range(start, start + policy.block) for start in range(0, policy.window, policy.block)]
    for chunk in (policy.window, 1):
        donor = block_cache(case)
        for at in range(0, policy.window, chunk):
            prefill(donor, tokens[at : at + chunk])
        blocks = taken(donor, spans)
        donor.close()
        for n in (1, 3, len(blocks)):
            cache = block_cache(case)
            cache.restore(blocks[:n])
            assert cache.length == n * policy.block
            for position in range(cache.length, policy.limit):
                row = prefill(cache, [tokens[position]]).numpy()
                assert_rows(case, row, expected[position], chunk)
            cache.close()
    assert len(policy.evicted(policy.limit)) >= 3 * policy.block


def check_blocks_past_evictions(case: Case) -> None:
    """Sinks and positions in the window can be copied; evicted positions cannot."""
    policy, tokens = case.policy, tokens_of(90, 78)
    early, late = block_cache(case), block_cache(case)
    prefill(early, tokens[: policy.window])
    prefill(late, tokens)
    assert policy.evicted(90) == range(policy.sink, 32)
    spans = [range(policy.sink), range(32, 48), range(50, 64)]
    assert taken(early, spans) == taken(late, spans) or case.model.exact_rows is None
    late.rewind(81)
    gone = [range(policy.sink, 16), range(16, 32), range(policy.sink + 1), range(70, 82)]
    assert late.snapshot(gone) == [None] * len(gone)
    late.rewind(0)
    assert late.snapshot(spans) == [None] * len(spans)
    early.close()
    late.close()


def check_blocks_that_do_not_fit(case: Case) -> None:
    """The blocks are refused, and the cache is unchanged, whether empty or filled."""
    policy, tokens = case.policy, tokens_of(policy_window := case.policy.window, 79)
    donor, cache = block_cache(case), block_cache(case)
    prefill(donor, tokens)
    (block,) = taken(donor, [range(policy_window)])
    for bad in ([block[:-1]], [block, block], [b""]):
        with pytest.raises(EngineError):
            cache.restore(bad)
        assert cache.length == 0
    with pytest.raises(EngineError, match="rewind it to 0 first"):
        donor.restore([block])
    cache.restore([block])
    row, expected = prefill(cache, [5]).numpy().copy(), prefill(donor, [5]).numpy()
    assert_rows(case, row, expected, policy.window)
    donor.close()
    cache.close()

"""The loop on a fake model: which tokens are run, the answer, and the counts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.backends.rounds import run_in_turn
from edgeinfer.decode.drafters.early_exit import EarlyExit
from edgeinfer.decode.loop import Decoder
from edgeinfer.decode.policy.arms import Arm, Fixed
from edgeinfer.decode.sampler import Sampler
from edgeinfer.errors import EngineError, RewindError, UsageError
from edgeinfer.prefill import prefill
from edgeinfer.protocols import Ask, Round, Row, TokenLike
from edgeinfer.types import GREEDY, Prompt, Sampling
from edgeinfer.window import WindowPolicy
from tests.unit.fake_model import N_VOCAB, FakeModel

POLICY = WindowPolicy(window=16, sink=4, block=4, limit=32)
SAMPLED = Sampling(temperature=1.0, seed=4)


def decoder(depth: int = 0, *, exit_differs: int = 3, policy: WindowPolicy = POLICY) -> Decoder:
    arm = Fixed(Arm("early-exit", depth)) if depth else Fixed()
    return Decoder(FakeModel(exit_differs), policy, controller=arm, drafters={"early-exit": EarlyExit()})


def answer(
    to: Decoder, prompt: Prompt, n: int, how: Sampling = GREEDY, stop: frozenset[int] = frozenset()
) -> list[int]:
    return list(to.stream(prompt, how, max_tokens=n, stop_tokens=stop))


def numbers(n: int, first: int = 0) -> tuple[int, ...]:
    return tuple((first + 7 * index) % N_VOCAB for index in range(n))


@pytest.mark.parametrize(
    "how", [GREEDY, SAMPLED, Sampling(temperature=0.0, repeat_penalty=1.5), Sampling(temperature=2.0, min_p=0.1)]
)
def test_every_draft_depth_gives_the_plain_answer(how: Sampling) -> None:
    prompt = Prompt(numbers(9), n_system=3)
    plain = answer(decoder(), prompt, 100, how)
    assert len(set(plain)) > 10
    for depth in (1, 2, 3, 7):
        drafting = decoder(depth)
        assert answer(drafting, prompt, 100, how) == plain
        assert 0 < drafting.stats.accepted < drafting.stats.drafted
        assert drafting.stats.reanchored > 3


def test_a_sampled_draft_has_the_noise_of_its_index() -> None:
    """If the exit agrees with the whole model, every sampled draft is accepted: noise depends on the index only."""
    for how in (SAMPLED, Sampling(temperature=1.5, repeat_penalty=1.4, repeat_last_n=5, seed=9)):
        drafting = decoder(3, exit_differs=0)
        answer(drafting, Prompt(numbers(5)), 60, how)
        assert drafting.stats.drafted > 30
        assert drafting.stats.accepted == drafting.stats.drafted


def test_a_continued_answer_has_the_noise_of_a_single_answer() -> None:
    prompt = Prompt(numbers(5))
    whole = answer(decoder(), prompt, 20, SAMPLED)
    first = decoder()
    begun = answer(first, prompt, 8, SAMPLED)
    goes_on = Prompt((*prompt.tokens, *begun))
    rest = list(first.stream(goes_on, SAMPLED, max_tokens=12, stop_tokens=frozenset(), first_index=8))
    assert begun + rest == whole


def test_the_counts_of_a_first_answer() -> None:
    to = decoder(3)
    answer(to, Prompt(numbers(6)), 10)
    stats = to.stats
    assert (stats.prompt, stats.reused, stats.prefilled, stats.reprefilled) == (6, 0, 6, 0)
    assert (stats.emitted, stats.finish, stats.kept, stats.evicted) == (10, "length", 15, 0)
    assert stats.rounds == sum(verb == "verify" for verb, _ in to.cache.log)  # type: ignore[attr-defined]
    assert sum(arm.emitted for arm in stats.arms.values()) == 9
    assert set(stats.arms) <= {"early-exit", "none"}
    assert stats.first_token_s >= stats.prefill_s > 0


def test_a_follow_up_runs_only_new_tokens() -> None:
    to, prompt = decoder(), Prompt(numbers(5))
    told = answer(to, prompt, 4)
    answer(to, Prompt((*prompt.tokens, *told, 1, 2)), 1)
    # 5 of the prompt and 3 of the answer were run; the last token was never needed
    assert (to.stats.reused, to.stats.prefilled, to.stats.reprefilled) == (8, 3, 0)


def test_the_same_prompt_again_runs_its_last_token() -> None:
    to, prompt = decoder(), Prompt(numbers(6))
    first = answer(to, prompt, 5)
    assert answer(to, prompt, 5) == first
    assert (to.stats.reused, to.stats.prefilled) == (5, 1)


def test_an_edit_before_the_first_eviction_rewinds() -> None:
    to = decoder()
    answer(to, Prompt(numbers(10)), 3)
    edited = Prompt((*numbers(7), 20, 21))
    assert answer(to, edited, 6) == answer(decoder(), edited, 6)
    assert (to.stats.reused, to.stats.prefilled) == (7, 2)


def test_an_edit_whose_keys_were_evicted_starts_again() -> None:
    to = decoder()
    answer(to, Prompt(numbers(20)), 4)
    edited = Prompt((*numbers(10), 20, 21))
    assert answer(to, edited, 6) == answer(decoder(), edited, 6)
    assert (to.stats.reused, to.stats.reprefilled, to.stats.prefilled) == (0, 10, 2)  # 10 of them had been run before


def test_reanchoring_by_hand() -> None:
    """At 32 positions, the system prompt (3 tokens) and the newest 8 cached tokens are run again, once."""
    to = decoder()
    prompt = Prompt(numbers(30), n_system=3)
    got = answer(to, prompt, 4)
    told = [*prompt.tokens, *got]
    # positions 30 and 31 take the first two tokens of the answer; the third is the pending one
    assert to.cache.log == [  # type: ignore[attr-defined]
        ("prefill", 16),  # the window's room, then a block at a time
        *[("prefill", 4)] * 3,
        ("prefill", 2),
        *[("verify", 1)] * 2,
        ("prefill", 11),
        ("verify", 1),
    ]
    assert to.cache.tokens == [*told[:3], *told[24:33]]  # type: ignore[attr-defined]
    assert (to.stats.reanchored, to.stats.reprefilled) == (1, 11)
    assert (to.stats.kept, to.stats.evicted) == (12, 33 - 12)


@pytest.mark.parametrize(
    ("starts", "first"),
    [
        ((3, 10, 26), 26),  # the cut would be at 24; 26 is within a block of 4
        ((3, 21, 27), 21),  # both are 3 away: the one that keeps more
        ((3, 19, 29), 24),  # none is close enough
    ],
)
def test_reanchoring_cuts_at_a_message_start_that_is_near(starts: tuple[int, ...], first: int) -> None:
    to = decoder()
    prompt = Prompt(numbers(30), n_system=3, starts=starts)
    told = [*prompt.tokens, *answer(to, prompt, 4)]
    assert to.cache.tokens == [*told[:3], *told[first:33]]  # type: ignore[attr-defined]


def test_a_chat_continues_from_the_cache_after_reanchoring() -> None:
    to, prompt = decoder(), Prompt(numbers(30), n_system=3)
    told = (*prompt.tokens, *answer(to, prompt, 6))
    answer(to, Prompt((*told, 5, 6), n_system=3), 3)
    assert (to.stats.reused, to.stats.prefilled, to.stats.reprefilled, to.stats.reanchored) == (3 + 35 - 24, 3, 0, 0)


def test_a_long_history_is_reanchored_and_reported() -> None:
    """40 tokens do not fit 32 positions. The newest half window stays, and at least the last two messages."""
    prompt = Prompt(numbers(40), n_system=3, starts=(3, 12, 38))
    to = decoder()
    answer(to, prompt, 1)
    assert to.cache.tokens == [*prompt.tokens[:3], *prompt.tokens[12:]]  # type: ignore[attr-defined]
    assert (to.stats.reanchored, to.stats.prefilled) == (1, 31)
    assert to.stats.evicted == 9 + len(POLICY.evicted(31))


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (Prompt(()), "empty"),
        (Prompt(numbers(9), n_system=5), "system prompt has 5 tokens, the window keeps 4"),
        (Prompt(numbers(33)), "needs 33 positions, the model has 32"),
        (Prompt(numbers(60), n_system=3, starts=(3, 20, 58)), "needs 43 positions"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused_at_the_call(prompt: Prompt, words: str) -> None:
    to = decoder()
    with pytest.raises(UsageError, match=words):
        to.stream(prompt, GREEDY, max_tokens=5, stop_tokens=frozenset())
    assert len(answer(to, Prompt(numbers(5)), 5)) == 5


def test_max_tokens_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="max_tokens"):
        decoder().stream(Prompt((1,)), GREEDY, max_tokens=0, stop_tokens=frozenset())


def test_reading_an_older_answer_raises() -> None:
    to = decoder()
    old = to.stream(Prompt(numbers(5)), GREEDY, max_tokens=9, stop_tokens=frozenset())
    next(old)
    new = to.stream(Prompt(numbers(6)), GREEDY, max_tokens=9, stop_tokens=frozenset())
    with pytest.raises(UsageError, match="another answer"):
        next(old)
    assert list(new) == answer(decoder(), Prompt(numbers(6)), 9)


def test_a_refused_second_answer_also_ends_the_first() -> None:
    """Its pending token is gone by then, so continuing would run a token twice."""
    to, prompt = decoder(), Prompt(numbers(5))
    old = to.stream(prompt, GREEDY, max_tokens=9, stop_tokens=frozenset())
    next(old)
    with pytest.raises(UsageError, match="the window keeps"):
        to.stream(Prompt(numbers(9), n_system=9), GREEDY, max_tokens=9, stop_tokens=frozenset())
    with pytest.raises(UsageError, match="another answer"):
        next(old)
    assert answer(to, prompt, 9) == answer(decoder(), prompt, 9)


@pytest.mark.parametrize("second", [numbers(12), (*numbers(3), *numbers(20, 50))])
def test_where_a_sliding_layer_has_lost_keys_the_prompt_is_run_again(second: tuple[int, ...]) -> None:
    """This cache refuses a rewind that the policy allows. The answer equals that of a fresh start, and is counted."""
    to = decoder()
    answer(to, Prompt(numbers(12), n_system=3), 3)
    true, refused = to.cache.rewind, []

    def short(length: int) -> None:
        if 0 < length < to.cache.length - 1:
            refused.append(length)
            raise RewindError("its keys have left the model's own sliding window")
        true(length)

    to.cache.rewind = short  # type: ignore[method-assign]
    prompt = Prompt(second, n_system=3)
    assert answer(to, prompt, 5) == answer(decoder(), prompt, 5)
    assert refused
    assert to.stats.reused == 0
    assert to.stats.reprefilled == refused[0]


def test_evictions_are_counted_once() -> None:
    to, told = decoder(), list(numbers(8))
    starts, evicted = [3], 0
    for turn in range(12):
        prompt = Prompt((*told,), n_system=3, starts=tuple(starts))
        told += answer(to, prompt, 6)
        evicted += to.stats.evicted
        starts += [len(told), len(told) + 2]
        told += numbers(4, turn)
    assert 0 < evicted <= len(told)


def test_close_closes_the_cache_but_not_the_model() -> None:
    to = decoder()
    to.close()
    assert to.cache.log == [("close", 0)]  # type: ignore[attr-defined]


turns = st.lists(
    st.tuples(
        st.integers(0, 60),  # tokens of the last turn that stay; more than it has: all
        st.integers(1, 14),  # new tokens
        st.integers(1, 12),  # max_tokens
        st.integers(0, 12),  # the reader leaves after this many
    ),
    min_size=1,
    max_size=7,
)


def plainly(held: list[int], prompt: Prompt, how: Sampling, n: int) -> list[int]:
    """The answer after a cache that holds `held`: one row at a time, with re-anchoring spelled out."""
    cache, sampler, told = FakeModel().new_cache(POLICY), Sampler(how), list(prompt.tokens)
    row = prefill(cache, held)
    for index in range(n):
        told.append(sampler.pick(row.numpy(), index, told))
        if cache.length == POLICY.limit:
            cut = len(told) - 1 - POLICY.window // 2
            near = [start for start in prompt.starts if abs(start - cut) <= POLICY.block]
            cut = sorted(near, key=lambda start: (abs(start - cut), start))[0] if near else cut
            cache.rewind(0)
            prefill(cache, [*told[: prompt.n_system], *told[cut:-1]])
        row = prefill(cache, told[-1:])
    return told[len(prompt.tokens) :]


@settings(max_examples=120, deadline=None)
@given(turns, st.sampled_from([0, 2, 5]), st.sampled_from([GREEDY, SAMPLED]))
def test_any_history_of_turns(script: list[tuple[int, int, int, int]], depth: int, how: Sampling) -> None:
    """The cache holds the prompt, with at most one gap after the system prompt, and the answer follows from it."""
    to, text, starts = decoder(depth), list(numbers(3, 3)), [3]
    for stays, new, most, leaves in script:
        del text[max(3, stays) :]
        starts = [*(start for start in starts if start < len(text)), len(text)]
        text += numbers(new, stays)
        starts.append(len(text) - 1)
        prompt = Prompt(tuple(text), n_system=3, starts=tuple(sorted(set(starts))))
        reader = to.stream(prompt, how, max_tokens=most, stop_tokens=frozenset())
        first = next(reader)
        held, stats = list(to.cache.tokens), to.stats  # type: ignore[attr-defined]
        cut = 3 + len(text) - len(held)
        assert held == [*text[:3], *text[cut:]]
        assert cut == 3 or len(text) - cut >= POLICY.window // 2 - POLICY.block
        assert cut == 3 or cut <= prompt.starts[-2] or stats.prefilled == 1  # the question stays whole
        assert stats.reused + stats.prefilled + stats.reprefilled == len(held)
        got = [first, *islice(reader, leaves)]
        reader.close()  # type: ignore[attr-defined]
        assert got == plainly(held, prompt, how, most)[: len(got)]
        assert stats.kept == to.cache.length - len(POLICY.evicted(to.cache.length))
        text += got


@pytest.mark.parametrize("done", [0, 2, 3, 7])
@pytest.mark.parametrize("prompt", [Prompt(numbers(40), 3, (3, 12, 38)), Prompt(numbers(12))], ids=["gap", "whole"])
def test_an_engine_may_fail_inside_a_prefill(prompt: Prompt, done: int) -> None:
    """Part of the prompt is in the cache, and the next answer knows which part."""
    model = FakeModel(chunk_rows=1, fails_at=done)
    to = Decoder(model, POLICY)
    with pytest.raises(EngineError, match="gave up"):
        answer(to, prompt, 5)
    assert to.cache.length == to.stats.prefilled == done
    model.fails_at = -1
    assert answer(to, prompt, 1) == answer(decoder(), prompt, 1)
    left_out = 9 if len(prompt.tokens) > POLICY.limit else 0
    assert to.stats.reused + to.stats.prefilled + to.stats.reprefilled == len(prompt.tokens) - left_out


def test_an_engine_may_fail_while_reanchoring() -> None:
    prompt = Prompt(numbers(30), n_system=3)
    model = FakeModel(chunk_rows=5, fails_at=12)  # after 9 chunks, 2 rounds, and a chunk of the new anchor
    to = Decoder(model, POLICY)
    with pytest.raises(EngineError, match="gave up"):
        answer(to, prompt, 9)
    assert (to.cache.length, to.stats.reanchored) == (5, 1)
    model.fails_at = -1
    got = answer(to, prompt, 1)  # the new anchor stands as far as it got: 3 tokens, a gap, and the tokens after 24
    held = to.cache.tokens  # type: ignore[attr-defined]
    assert held == [*prompt.tokens[:3], *prompt.tokens[24:]]
    assert got == plainly(held, prompt, GREEDY, 1)


def test_an_interrupt_inside_a_long_prompt_ends_the_answer_there(monkeypatch: pytest.MonkeyPatch) -> None:
    model = FakeModel(chunk_rows=2)
    to = Decoder(model, POLICY)
    n_run = 0

    def interrupted_run(asks: Sequence[Ask]) -> list[Sequence[Row]]:
        nonlocal n_run
        n_run += 1
        if n_run == 3:
            to.interrupt()
        return run_in_turn(asks)

    with monkeypatch.context() as patched:
        patched.setattr(model, "run", interrupted_run)
        assert answer(to, Prompt(numbers(15)), 20) == []
    assert (n_run, to.stats.finish, to.stats.emitted) == (3, "canceled", 0)
    assert answer(to, Prompt(numbers(15)), 20) == answer(decoder(), Prompt(numbers(15)), 20)


def test_chunks_of_a_prompt_end_at_multiples_of_their_size_wherever_it_began() -> None:
    to = Decoder(FakeModel(chunk_rows=6), WindowPolicy(window=64, sink=4, block=16, limit=128))
    answer(to, Prompt(numbers(4)), 1)
    answer(to, Prompt(numbers(20)), 1)
    sizes = [n for _, n in to.cache.log]  # type: ignore[attr-defined]
    assert sizes == [4, 2, 6, 6, 2]


def test_a_reader_may_leave_in_the_middle_of_a_long_prompt() -> None:
    prompt = Prompt(numbers(12), n_system=3)
    to = Decoder(FakeModel(chunk_rows=5), POLICY)
    to.start(prompt, GREEDY, max_tokens=9, stop_tokens=frozenset())
    step = to.begin()
    assert (len(step.tokens), step.n_rows) == (5, 0)
    assert to.end(to.cache.model.run([step])[0]) == []  # type: ignore[attr-defined]
    to.begin()
    to.stop()
    assert (to.stats.finish, to.stats.prefilled, to.cache.length, to.running) == ("canceled", 5, 5, False)
    assert answer(to, prompt, 9) == answer(decoder(), prompt, 9)
    assert to.stats.reused == 5


def test_decoders_in_step_give_the_answer_that_each_gives_alone() -> None:
    prompts = [Prompt(numbers(9), n_system=3), Prompt(numbers(30, 5), n_system=3), Prompt(numbers(5, 2))]
    expected = [answer(decoder(depth), prompt, 40) for depth, prompt in enumerate(prompts)]
    model = FakeModel(chunk_rows=7)
    together = [
        Decoder(model, POLICY, controller=Fixed(Arm("early-exit", depth)), drafters={"early-exit": EarlyExit()})
        for depth in range(3)
    ]
    told: list[list[int]] = [[], [], []]
    for to, prompt in zip(together, prompts, strict=True):
        to.start(prompt, GREEDY, max_tokens=40, stop_tokens=frozenset())
    while any(to.running for to in together):
        running = [index for index, to in enumerate(together) if to.running]
        rows = model.run([together[index].begin() for index in running])
        for index, found in zip(running, rows, strict=True):
            told[index] += together[index].end(found)
    assert told == expected


def test_an_ask_is_begun_and_ended_once() -> None:
    to = decoder()
    with pytest.raises(UsageError, match="needs a running answer"):
        to.begin()
    with pytest.raises(UsageError, match="needs an ask"):
        to.end([])
    to.start(Prompt(numbers(5)), GREEDY, max_tokens=9, stop_tokens=frozenset())
    to.begin()
    with pytest.raises(UsageError, match="needs a running answer"):
        to.begin()
    to.stop()
    to.stop()


def test_an_answer_may_end_with_its_first_token() -> None:
    to, prompt = decoder(), Prompt(numbers(5))
    first = answer(to, prompt, 1)
    assert answer(to, prompt, 9, stop=frozenset(first)) == first
    assert (to.stats.finish, to.stats.rounds) == ("stop", 0)


def test_a_drafter_that_proposes_nothing_makes_a_plain_round() -> None:
    class Silent(EarlyExit):
        def propose(self, round: Round, limit: int) -> list[TokenLike]:
            return []

    to = Decoder(FakeModel(), POLICY, controller=Fixed(Arm("early-exit", 3)), drafters={"early-exit": Silent()})
    assert answer(to, Prompt(numbers(5)), 20) == answer(decoder(), Prompt(numbers(5)), 20)
    assert (to.stats.drafted, to.stats.rounds) == (0, 19)

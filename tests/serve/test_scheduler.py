"""The scheduler on a model without weights; the test runs every step."""

from __future__ import annotations

from collections.abc import Sequence
from queue import SimpleQueue
from threading import current_thread

import pytest

from edgeinfer.chat.trace_formats import TraceFormat
from edgeinfer.decode.loop import Decoder
from edgeinfer.decode.policy.known import KnownDrafts
from edgeinfer.prefill import within_blocks
from edgeinfer.protocols import Cache, Round, TokenLike
from edgeinfer.serve.engine import scheduler as scheduler_module
from edgeinfer.serve.engine.job import Admitted, BusyError, Ended, Failed
from edgeinfer.serve.engine.pace import Pace
from edgeinfer.serve.engine.slots import PATIENCE, NoPrefixes, Slot, choose_slot
from edgeinfer.types import GREEDY, Prompt, Sampling, Tokens
from tests.serve.engine import POLICY, Engine, Heard, Letters
from tests.unit.fake_model import FakeModel

SEEDED = Sampling(temperature=1.0, seed=11)
PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9], [2] * 30, [3, 1, 4, 1, 5, 9, 2, 6]]


@pytest.mark.parametrize("how", [GREEDY, SEEDED])
def test_beside_others_an_answer_has_the_tokens_that_it_has_alone(how: Sampling) -> None:
    engine = Engine()
    heard = [engine.job(prompt, 40 + 10 * index, how) for index, prompt in enumerate(PROMPTS)]
    engine.submit(*heard)
    engine.until_idle()
    for index, (one, prompt) in enumerate(zip(heard, PROMPTS, strict=True)):
        assert one.tokens == engine.alone(prompt, 40 + 10 * index, how)
        assert one.job.state == "finished"
    assert max(map(len, engine.asked)) == 4  # they ran together


def test_an_answer_passes_through_its_states() -> None:
    engine = Engine(n_slots=1)
    one, two = engine.job([1, 2, 3], 3), engine.job([4, 5, 6], 3)
    engine.submit(one, two)
    assert (one.job.state, two.job.state) == ("waiting", "waiting")
    engine.scheduler.step()
    assert (one.job.state, two.job.state) == ("running", "waiting")
    assert isinstance(one.events[0], Admitted)
    engine.until_idle()
    assert (one.finish, two.finish) == ("length", "length")
    assert isinstance(one.last, Ended) and one.last.n_tokens == 3


def test_a_neighbor_that_stops_or_fails_changes_nothing() -> None:
    engine = Engine(poison=(23, 23), after=2)
    heard = [engine.job(prompt, 50) for prompt in PROMPTS[:2]]
    stops, fails = engine.job([7, 7], 50), engine.job([23, 23, 4], 50)
    engine.submit(*heard, stops, fails)
    for _ in range(9):
        engine.scheduler.step()
    stops.job.cancel()
    engine.until_idle()
    assert [one.tokens for one in heard] == [engine.alone(prompt, 50) for prompt in PROMPTS[:2]]
    assert stops.job.state == "canceled" and fails.error == "the engine gave up"
    assert not any(isinstance(event, Ended | Failed) for event in stops.events)
    again = engine.job(PROMPTS[3], 20)  # and both slots are free again
    engine.submit(again, engine.job([7, 7], 5), engine.job([1], 5), engine.job([2], 5))
    engine.until_idle()
    assert again.tokens == engine.alone(PROMPTS[3], 20)
    assert engine.scheduler.counts.failed == 1 and engine.scheduler.counts.canceled == 1


def test_an_answer_can_be_canceled_while_waiting_prefilling_or_writing() -> None:
    engine = Engine(n_slots=1)
    engine.model.chunk_rows = 8
    engine.slots[0].decoder.cache.chunk_rows = 8
    first, second = engine.job([1, 2], 100), engine.job([3] * 40, 100)
    engine.submit(first, second)
    engine.scheduler.step()
    second.job.cancel()
    engine.scheduler.step()
    assert second.job.state == "canceled" and engine.scheduler.n_waiting == 0
    first.job.cancel()
    third = engine.job([4] * 40, 100)
    engine.submit(third)
    engine.scheduler.step()
    assert first.job.state == "canceled" and third.job.state == "prefilling"
    third.job.cancel()
    engine.scheduler.step()
    assert third.job.state == "canceled" and engine.scheduler.n_running == 0
    assert first.tokens == engine.alone([1, 2], 100)[: len(first.tokens)]


def test_jobs_run_in_order_and_too_many_are_refused_with_a_retry_time() -> None:
    engine = Engine(n_slots=2, max_waiting=3)
    heard = [engine.job([index], 4) for index in range(5)]
    engine.submit(*heard)
    with pytest.raises(BusyError, match="requests wait already, and at most 3 may") as refused:
        engine.submit(engine.job([9]))
    assert refused.value.retry_after_s > 0
    order: list[int] = []
    while engine.scheduler.n_running or engine.scheduler.n_waiting:
        engine.scheduler.step()
        order += [at for at, one in enumerate(heard) if one.job.state == "finished" and at not in order]
    assert order == [0, 1, 2, 3, 4]
    engine.submit(engine.job([9]))


def test_a_job_that_waits_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(n_slots=1)
    first, late = engine.job([1], 3), engine.job([2], 3)
    engine.submit(first, late)
    monkeypatch.setattr(scheduler_module, "MAX_WAIT_S", 0.0)
    engine.scheduler.step()
    assert isinstance(late.last, Failed) and isinstance(late.last.error, BusyError)
    engine.until_idle()
    assert first.finish == "length"


def test_a_thousand_conversations_over_four_slots_end_in_bounded_order() -> None:
    engine = Engine(max_waiting=2000)
    heard = [engine.job([index % 24, index // 24 % 24], 2 + index % 3) for index in range(1000)]
    engine.submit(*heard)
    ended: list[int] = []
    open_ones = set(range(1000))
    while open_ones:
        engine.scheduler.step()
        done = [at for at in sorted(open_ones)[:8] if heard[at].job.state == "finished"]
        ended += done
        open_ones -= set(done)
    assert all(abs(place - at) <= 8 for place, at in enumerate(ended))  # answers of 2 to 4 tokens in 4 slots


def test_beside_a_long_prompt_others_get_a_row_in_every_step() -> None:
    engine = Engine()
    writer, reader = engine.job([1, 2], 60), engine.job([5] * 60, 5)
    engine.submit(writer)
    engine.scheduler.step()
    engine.scheduler.pace.observe_chunk(10, 10 * 0.05 / 8)  # so that a chunk has eight rows
    engine.submit(reader)
    engine.asked.clear()
    while reader.job.state in ("waiting", "prefilling"):
        before = len(writer.tokens)
        engine.scheduler.pace._row_s = 0.05 / 8
        engine.scheduler.step()
        assert len(writer.tokens) == before + 1
    chunks = [rows[0] for rows in engine.asked if rows != [1]]
    assert chunks == [8] * 7 + [4]
    engine.until_idle()
    assert reader.tokens == engine.alone([5] * 60, 5)


def test_an_ended_conversation_is_kept_before_the_next_prompt_and_when_none_runs() -> None:
    order: list[str] = []

    class Notes(NoPrefixes):
        def keep(self, cache: Cache, tokens: Tokens) -> None:
            order.append(f"keep {tokens[0]}")

    engine = Engine(n_slots=2)
    engine.scheduler._prefixes = Notes()
    heard = [engine.job([first, 2], n) for first, n in ((5, 2), (6, 8), (7, 2))]
    for name, one in zip("abc", heard, strict=True):
        one.job.report = lambda event, name=name: order.append(f"{type(event).__name__} {name}")
    engine.submit(*heard)
    engine.until_idle()
    told = [one for one in order if not one.startswith("Written")]
    assert told == [
        *("Admitted a", "Admitted b", "Ended a"),
        *("keep 5", "Admitted c", "Ended c"),
        "Ended b",
        "keep 7",
        "keep 6",
    ]


def test_a_scheduler_that_is_closed_keeps_what_has_ended() -> None:
    kept: list[int] = []
    engine = Engine(n_slots=1)
    engine.slots[0].unkept = True
    engine.scheduler._prefixes = type("Notes", (NoPrefixes,), {"keep": lambda *of: kept.append(1)})()
    engine.scheduler._closing = True
    engine.scheduler.start()
    engine.scheduler.close()
    assert kept == [1]


class Foresees:
    """Drafts the true answer, and a wrong token after two right ones."""

    name = "lookup"

    def __init__(self, answer: Sequence[int]) -> None:
        self._answer = answer
        self._n_read = 0

    def reset(self, context: Tokens) -> None:
        self._n_read = 1

    def extend(self, tokens: Tokens) -> None:
        self._n_read += len(tokens)

    def propose(self, round: Round, limit: int) -> Sequence[TokenLike]:
        raise AssertionError("it is asked for what it knows")

    def known(self, limit: int) -> KnownDrafts | None:
        right = self._answer[self._n_read : self._n_read + 2]
        drafts = [*right, *[(token + 1) % 24 for token in self._answer[self._n_read + 2 :]]][:limit]
        return KnownDrafts(self.name, drafts, [0.99] * len(drafts))


def test_known_drafts_beside_others_change_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine()
    answers = [engine.alone(prompt, 40) for prompt in PROMPTS]
    for slot, answer in zip(engine.slots, answers[:2], strict=False):
        slot.decoder = Decoder(engine.model, POLICY, drafters={"lookup": Foresees(answer)})
    monkeypatch.setattr(engine.scheduler.pace, "forward_s", lambda rows: 1.0)  # rows are free
    heard = [engine.job(prompt, 40) for prompt in PROMPTS]
    engine.submit(*heard)
    engine.until_idle()
    assert [one.tokens for one in heard] == answers
    assert engine.scheduler.counts.drafted > engine.scheduler.counts.accepted > 0
    assert any(sorted(rows)[-1] > 1 == min(rows) and len(rows) > 2 for rows in engine.asked)


def test_short_prompts_are_read_whole_or_wait_beside_others() -> None:
    engine = Engine()
    engine.submit(engine.job([1, 2], 60))
    engine.scheduler.step()
    engine.scheduler.pace._row_s = 0.05 / 20  # so that a chunk has twenty rows
    readers = [engine.job([5] * n, 5) for n in (6, 7, 9)]
    engine.submit(*readers)
    engine.asked.clear()
    engine.scheduler.step()
    assert engine.asked == [[1], [6], [7]]  # seven rows are left, too few for the third
    engine.asked.clear()
    engine.scheduler.step()
    assert engine.asked == [[1, 1, 1], [9]]
    engine.until_idle()
    assert [one.tokens for one in readers] == [engine.alone([5] * n, 5) for n in (6, 7, 9)]


def test_a_chunk_takes_at_most_three_rounds_of_those_that_write_beside_it() -> None:
    pace = Pace()
    assert pace.budget_s(1) == 0.05
    pace.observe_round([1], 0.012)
    pace.observe_round([1] * 4, 0.030)
    pace.observe_chunk(10, 0.032)
    assert pace.budget_s(1) == 0.05 and pace.budget_s(4) == pytest.approx(0.090)
    assert (pace.chunk_rows(1), pace.chunk_rows(4)) == (15, 28)


def test_a_small_chunk_does_not_make_the_next_ones_small() -> None:
    pace = Pace()
    pace.observe_chunk(100, 0.050)
    pace.observe_chunk(4, 0.008)
    assert pace.chunk_rows(1) == 100


def test_an_engine_without_work_rests_on_its_own_thread() -> None:
    """Threads that it keeps would take the cores from those of another model."""
    engine, rested = Engine(n_slots=1, rest_after_s=0.01), SimpleQueue[str]()
    engine.rest = lambda: rested.put(current_thread().name)  # type: ignore[method-assign]
    engine.scheduler.start()
    for _ in range(2):
        assert rested.get(timeout=20) == "engine"
        engine.submit(engine.job([1, 2, 3], 3))
    engine.scheduler.close()


@pytest.mark.parametrize(
    ("most", "block", "chunk"), [(256, 192, 192), (256, 64, 256), (250, 64, 192), (128, 192, 96), (7, 8, 4), (5, 7, 1)]
)
def test_chunks_beside_others_end_at_block_boundaries(most: int, block: int, chunk: int) -> None:
    assert within_blocks(most, block) == chunk


def test_short_prompts_go_first_but_do_not_starve_a_long_one() -> None:
    engine = Engine(n_slots=3)
    for slot in engine.slots:
        slot.decoder.cache.chunk_rows = 1
    long = engine.job([5] * 40, 2)
    engine.submit(long)
    engine.scheduler.step()
    waited = 0
    for n in range(20):
        engine.submit(engine.job([n, 1], 1))
        before = engine.slots[0].decoder.n_waiting
        engine.scheduler.step()
        waited = 0 if engine.slots[0].decoder.n_waiting < before else waited + 1
        assert waited <= PATIENCE
    assert engine.slots[0].decoder.n_waiting < 39


def slots_with(*conversations: list[int]) -> list[Slot]:
    engine = Engine(n_slots=len(conversations))
    for at, (slot, tokens) in enumerate(zip(engine.slots, conversations, strict=True)):
        slot.decoder.adopt(tokens)
        slot.last_used = at
    return engine.slots


def test_a_chat_finds_its_own_conversation_and_a_title_request_leaves_it_alone() -> None:
    system, chat = [1, 1, 1, 1], [1, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    slots = slots_with([9, 9], [], chat)
    continued = Prompt((*chat, 5, 5), n_system=4)
    title = Prompt((*system, 8, 8, 8), n_system=4)
    assert choose_slot(slots, continued) is slots[2]
    assert choose_slot(slots, title) is slots[0]
    mostly_system = slots_with([], [*system, 2])
    assert choose_slot(mostly_system, title) is mostly_system[0]
    slots[2].job = Engine().job([1]).job
    assert choose_slot(slots, continued) is slots[0]


def test_where_conversations_are_kept_a_new_one_goes_next_to_those_that_run() -> None:
    """Engines run neighbors in one forward."""
    slots = slots_with([9, 9], [8, 8], [7, 7], [6, 6], [5, 5])
    slots[2].job = slots[4].job = Engine().job([1]).job
    new = Prompt((1, 2, 3))
    assert choose_slot(slots, new) is slots[0]
    assert choose_slot(slots, new, kept=True) is slots[3]
    slots[4].job = None
    assert choose_slot(slots, new, kept=True) is slots[1]
    assert choose_slot(slots, Prompt((9, 9, 1)), kept=True) is slots[0]


def test_requests_that_come_together_run_side_by_side_whatever_ran_before() -> None:
    engine = Engine(n_slots=6)
    engine.scheduler._prefixes = Keeping()
    for at, slot in enumerate(engine.slots):
        slot.last_used = [3, 6, 1, 5, 2, 4][at]
    engine.submit(*(engine.job([n, 1], 3) for n in range(3)))
    engine.scheduler.step()
    running = [at for at, slot in enumerate(engine.slots) if slot.job is not None]
    assert running == [2, 3, 4]


class Keeping(NoPrefixes):
    """Says that it keeps conversations."""

    keeps = True


def test_after_an_engine_failure_requests_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(n_slots=1, poison=(23,))

    def cannot(length: int) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(engine.slots[0].decoder.cache, "rewind", cannot)
    first, second = engine.job([23], 3), engine.job([2], 3)
    engine.submit(first, second)
    engine.scheduler.step()
    engine.scheduler.step()
    assert "unexpected RuntimeError" in first.error or first.error == "the engine gave up"
    assert second.error == "every conversation of the engine has failed"


def test_the_watchdog_finds_a_step_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(n_slots=1)
    engine.scheduler.start()
    assert engine.scheduler.stalled == ""
    engine.scheduler.close()
    assert engine.scheduler.stalled == "the engine has stopped"
    hanging = Engine(n_slots=1)
    hanging.submit(hanging.job([1], 3))
    monkeypatch.setattr(hanging.scheduler, "_thread", type("Alive", (), {"is_alive": lambda self: True})())
    assert hanging.scheduler.stalled == ""
    monkeypatch.setattr(scheduler_module, "STALLED_S", -1.0)
    assert "no step of the engine has ended" in hanging.scheduler.stalled


def test_a_stop_string_ends_the_answer_and_is_not_in_it() -> None:
    engine = Engine()
    plain = "".join(chr(ord("a") + token) for token in engine.alone([1, 2, 3], 40))
    heard = engine.job([1, 2, 3], 40, stops=[plain[10:13]])
    engine.submit(heard)
    engine.until_idle()
    assert heard.finish == "stop" and text_of(heard) == plain[: plain.index(plain[10:13])]


@pytest.mark.parametrize("how", [GREEDY, SEEDED])
def test_reasoning_past_its_budget_is_closed_and_the_answer_follows(how: Sampling) -> None:
    trace = TraceFormat("<", (">",))
    engine = Engine()
    heard = engine.job([1, 2, 3], 20, how, traces=[trace], inside=trace, think_budget=5)
    engine.submit(heard, engine.job([4, 5], 30))
    engine.until_idle()
    thought = engine.alone([1, 2, 3], 5, how)
    ending = Letters().encode(trace.ending, special=True)
    decoder = Decoder(FakeModel(), POLICY)
    so_far = [*thought, *ending]
    rest = decoder.stream(
        Prompt((1, 2, 3, *so_far)), how, max_tokens=20 - 5, stop_tokens=frozenset(), first_index=len(so_far)
    )
    assert heard.tokens == [*so_far, *rest]
    parts = [part for event in heard.events for part in getattr(event, "parts", ())]
    said = "".join(part.text for part in parts if part.thinking)
    assert said.rstrip("\n") == "".join(Letters().piece(token).decode() for token in thought)
    assert isinstance(heard.last, Ended) and heard.last.n_thought == 5


def text_of(heard: Heard) -> str:
    return "".join(segment.text for event in heard.events for segment in getattr(event, "parts", ()))

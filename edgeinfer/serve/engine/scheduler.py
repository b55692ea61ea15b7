"""The scheduler: one engine thread that runs the answers of several conversations together, step by step.

A step runs one row of each answer that is being written, then a chunk of the prompts. The memory of every conversation
is there from the start, so admission is a count, and nothing that runs is ever interrupted, cut or failed for memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import ceil
from threading import Condition, Thread
from time import monotonic, perf_counter
from typing import Final, Protocol, TypeAlias

from edgeinfer.decode.policy.known import KnownDrafts, share_rows
from edgeinfer.decode.stats import AnswerStats
from edgeinfer.errors import EdgeInferError, EngineError
from edgeinfer.protocols import Ask, Cache, Row
from edgeinfer.serve.engine.counts import Counts
from edgeinfer.serve.engine.job import Admitted, BusyError, ClosingError, Ended, Failed, Finish, Job, State
from edgeinfer.serve.engine.pace import Pace
from edgeinfer.serve.engine.slots import NoPrefixes, Prefixes, Slot, by_turn, choose_slot
from edgeinfer.types import Prompt, compact

__all__ = ["REST_AFTER_S", "Scheduler"]

Drafts: TypeAlias = Mapping[int, KnownDrafts]  # by the id of the slot

WAITING_PER_SLOT: Final = 4
MAX_WAIT_S: Final = 120.0  # a request that waits longer is refused, with a time to try again
EARLY_KEEP_TOKENS: Final = 128  # a prompt of more is kept before its answer has ended, for others that begin like it
LAST_ROWS: Final = 32  # of the window, in which a conversation is kept before its first keys leave; a round has fewer
REST_AFTER_S: Final = 1.0  # without a job; starting the engine's threads again takes 0.2 s on a busy machine
STALLED_S: Final = 30.0  # without the end of a step: the engine hangs
_NO_PREFIXES: Final = NoPrefixes()
_NO_DRAFTS: Final[Drafts] = {}
_NOTHING: Final = KnownDrafts("", (), ())


class Engine(Protocol):
    """See protocols.Model."""

    def run(self, asks: Sequence[Ask]) -> Sequence[Sequence[Row]]: ...
    def rest(self) -> None: ...


class Scheduler:
    """Owns the engine from `start` to `close`. `submit` and `stalled` may be called from any thread."""

    def __init__(
        self,
        engine: Engine,
        slots: Sequence[Slot],
        *,
        prefixes: Prefixes = _NO_PREFIXES,
        max_waiting: int | None = None,
        rest_after_s: float | None = None,
    ) -> None:
        """`engine` is the model of `slots`. `max_waiting` jobs may wait in addition to those that run.

        With `rest_after_s` the engine rests after that time without a job: another one in this process needs the cores.
        """
        self.counts = Counts()
        self.pace = Pace()
        self._engine = engine
        self._slots = list(slots)
        self._prefixes = prefixes
        self._max_waiting = WAITING_PER_SLOT * len(slots) if max_waiting is None else max_waiting
        self._rest_after_s = rest_after_s
        self._waiting: deque[Job] = deque()
        self._changed = Condition()
        self._closing = False
        self._n_steps = 0
        self._stepped_s = monotonic()
        self._thread = Thread(target=self._loop, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Let `jobs` wait for a conversation, first in, first out. Raises BusyError when too many wait already,
        ClosingError after `close`.
        """
        with self._changed:
            if self._closing:
                raise ClosingError
            free = sum(slot.job is None for slot in self._slots)
            n_waiting = len(self._waiting)
            if n_waiting + len(jobs) > self._max_waiting + free:
                self.counts.refused += len(jobs)
                raise self._busy(f"{n_waiting} requests wait already, and at most {self._max_waiting} may", n_waiting)
            if not self._waiting and free == len(self._slots):
                self._stepped_s = monotonic()  # the engine was idle, so it is not late
            for job in jobs:
                job.submitted_s = perf_counter()
            self._waiting.extend(jobs)
            self._changed.notify()

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    @property
    def n_running(self) -> int:
        return sum(slot.job is not None for slot in self._slots)

    @property
    def n_slots(self) -> int:
        return len(self._slots)

    @property
    def idle(self) -> bool:
        """Whether no job waits or runs, and no conversation is to be kept: `step` would do nothing."""
        return not self._waiting and all(slot.job is None and not slot.unkept for slot in self._slots)

    @property
    def stalled(self) -> str:
        """Why the server cannot answer any more; "" when it can."""
        if not self._thread.is_alive():
            return "the engine has stopped"
        if all(slot.broken for slot in self._slots):
            return "every conversation of the engine has failed"
        idle_s = monotonic() - self._stepped_s
        if (self._waiting or self.n_running) and idle_s > STALLED_S:
            return f"no step of the engine has ended for {idle_s:.0f} s"
        return ""

    def close(self) -> None:
        """End every job, and the thread. Safe to call twice."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()
        closed = ClosingError()
        while self._waiting:
            self._waiting.popleft().report(Failed(closed))
        for slot in self._slots:
            if slot.job is not None:
                slot.decoder.stop()
                self._fail(slot, closed)

    def _loop(self) -> None:
        while True:
            if not self._has_work(self._rest_after_s):
                self._engine.rest()
                self._has_work(None)
            if self._closing:
                self._keep_ended()
                return
            self.step()

    def _has_work(self, timeout_s: float | None) -> bool:
        """Wait for a job, or the end, for at most `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closing or not self.idle, timeout_s)

    def step(self) -> None:
        """Admit what can be admitted; a round of every answer that is being written; a chunk of the prompts."""
        self._end_canceled()
        self._admit()
        active = [slot for slot in self._slots if slot.job is not None]
        writing = [slot for slot in active if not slot.decoder.prefilling]
        reading = [slot for slot in active if slot.decoder.prefilling]
        alone = len(active) == 1
        most = self.pace.chunk_rows(len(writing)) if writing else None
        if writing:
            drafts = {} if alone else self._known_drafts(writing)
            began = perf_counter()
            rows = self._run(writing, most, alone=alone, drafts=drafts)
            self.pace.observe_round(rows, perf_counter() - began)
        if reading:
            self._read(reading, most, alone=alone)
        if not active:
            self._keep_ended(at_most=1)  # a job may come meanwhile
        self._n_steps += 1
        self._stepped_s = monotonic()

    def _end_canceled(self) -> None:
        with self._changed:
            left = [job for job in self._waiting if not job.canceled]
            self.counts.canceled += len(self._waiting) - len(left)
            for job in self._waiting:
                job.state = "canceled" if job.canceled else job.state
            self._waiting = deque(left)
        for slot in self._slots:
            if slot.job is not None and slot.job.canceled:
                slot.decoder.stop()
                self._leave(slot, "canceled")

    def _admit(self) -> None:
        while self._waiting:
            job = self._waiting[0]
            slot = choose_slot(self._slots, job.task.prompt, kept=self._prefixes.keeps)
            if slot is None:
                self._refuse_late()
                break
            self._keep_ended()
            with self._changed:
                self._waiting.popleft()
            slot.job = job
            job.admitted_s = perf_counter()
            job.state = "prefilling"
            self._guarded(slot, lambda slot=slot, job=job: self._begin(slot, job))  # type: ignore[misc]

    def _begin(self, slot: Slot, job: Job) -> None:
        task = job.task
        n_held = slot.decoder.reusable(task.prompt)
        n = self._prefixes.restore(slot.decoder.cache, task.prompt.tokens, n_held)
        if n:
            slot.decoder.adopt(task.prompt.tokens[:n])
        slot.decoder.start(
            task.prompt,
            task.sampling,
            max_tokens=task.max_tokens,
            stop_tokens=task.stop_tokens,
            constraint=job.constraint,
        )
        job.report(Admitted())
        if job.text.over_budget:
            self._end_reasoning(slot, job)

    def _refuse_late(self) -> None:
        """The jobs that have waited too long, the oldest first; every job, when no slot is left."""
        broken = all(slot.broken for slot in self._slots)
        with self._changed:
            while self._waiting and (broken or perf_counter() - self._waiting[0].submitted_s > MAX_WAIT_S):
                job = self._waiting.popleft()
                job.state = "failed"
                self.counts.refused += 1
                late = self._busy(f"no conversation was free for {MAX_WAIT_S:.0f} s", len(self._waiting))
                job.report(Failed(EngineError("every conversation of the engine has failed") if broken else late))

    def _busy(self, message: str, n_before: int) -> BusyError:
        wait_s = self.pace.wait_s(n_before, len(self._slots))
        return BusyError(
            message, retry_after_s=wait_s, hint=f"try again in {ceil(wait_s)} s, or serve more conversations"
        )

    def _read(self, reading: Sequence[Slot], most: int | None, *, alone: bool) -> None:
        """At most `most` tokens of the prompts: a chunk of the first, then others that fit whole, because a row of a
        small piece takes longer. Without a limit, a chunk of the first.
        """
        first, *others = by_turn(reading)
        left = (most or 0) - self._read_chunk(first, most, alone=alone)
        for slot in others:
            if slot.decoder.n_waiting <= left:
                left -= self._read_chunk(slot, left, alone=False)
        for slot in reading:
            if slot.job is not None and slot.decoder.prefilling:
                slot.job.n_passed += 1

    def _read_chunk(self, slot: Slot, most: int | None, *, alone: bool) -> int:
        """How many tokens of its prompt were run."""
        before, began = slot.decoder.n_waiting, perf_counter()
        self._run([slot], most, alone=alone)
        n_rows = before - slot.decoder.n_waiting
        if n_rows:
            self.pace.observe_chunk(n_rows, perf_counter() - began)
        if slot.job is not None:
            slot.job.n_passed = 0
        return n_rows

    def _known_drafts(self, writing: Sequence[Slot]) -> Drafts:
        """What conversations draft that write beside each other: what gives all of them the most tokens a second."""
        known: list[tuple[int, KnownDrafts]] = []
        for slot in writing:
            self._guarded(slot, lambda slot=slot: known.append((id(slot), slot.decoder.known_drafts() or _NOTHING)))  # type: ignore[misc]
        if not any(one.tokens for _, one in known):
            return {}
        depths = share_rows([one.acceptance for _, one in known], self.pace.forward_s)
        return {key: one.first(depth) for (key, one), depth in zip(known, depths, strict=True) if depth}

    def _run(
        self, slots: Sequence[Slot], max_rows: int | None, *, alone: bool, drafts: Drafts = _NO_DRAFTS
    ) -> list[int]:
        """Run one ask of each of `slots` together. If that fails, run each by itself, so that only the faulty one
        fails.

        The rows of each ask that was run; none where an ask failed.
        """
        asked: list[tuple[Slot, Ask]] = []

        def begin(slot: Slot) -> None:
            if slot.job is not None:
                asked.append((slot, slot.decoder.begin(max_rows, alone=alone, known=drafts.get(id(slot)))))

        for slot in slots:
            self._guarded(slot, partial(begin, slot))
        if not asked:
            return []
        try:
            rows = self._engine.run([ask for _, ask in asked])
        except Exception as error:  # whatever the engine raises must not end the other conversations
            for slot, _ in asked:
                slot.decoder.undo()
            if len(asked) == 1:
                self._fail(asked[0][0], as_engine_error(error))
            else:
                for slot, _ in asked:
                    self._run([slot], max_rows, alone=False)
            return []
        for (slot, _), of_slot in zip(asked, rows, strict=True):
            self._guarded(slot, partial(self._take, slot, of_slot))
        return [len(ask.tokens) for _, ask in asked]

    def _take(self, slot: Slot, rows: Sequence[Row]) -> None:
        job, decoder = slot.job, slot.decoder
        if job is None:
            return
        was_reading = decoder.prefilling
        tokens = decoder.end(rows)
        if not tokens:
            return
        if was_reading:
            job.state = "running"
        job.take(tokens, rows)
        if job.text.stopped:
            decoder.stop()
            self._finish(slot, job, "stop")
        elif not decoder.running:
            self._finish(slot, job, "length" if decoder.stats.finish == "length" else "stop")
        elif job.text.over_budget:
            self._end_reasoning(slot, job)
        elif (was_reading and decoder.stats.prefilled >= EARLY_KEEP_TOKENS) or fills_its_window(decoder.cache):
            self._prefixes.keep(decoder.cache, decoder.at_their_positions)

    def _end_reasoning(self, slot: Slot, job: Job) -> None:
        """Write the end of the trace in the model's place, and let it continue."""
        tokens, parts = job.text.end_reasoning()
        job.tell(parts)
        task, so_far = job.task, job.text.tokens
        prompt = Prompt(compact([*task.prompt.tokens, *so_far]), task.prompt.n_system, task.prompt.starts)
        left = max(1, task.max_tokens - len(so_far) + len(tokens))
        slot.decoder.start(
            prompt,
            task.sampling,
            max_tokens=left,
            stop_tokens=task.stop_tokens,
            first_index=len(so_far),
            constraint=job.constraint,
        )

    def _finish(self, slot: Slot, job: Job, finish: Finish) -> None:
        job.tell(job.text.finish())
        stats = slot.decoder.stats
        self._count(job, stats)
        self._leave(slot, "finished")
        text = job.text
        job.report(Ended(finish, stats, len(text.tokens), text.n_thought, text.stop_string))
        slot.unkept = True

    def _keep_ended(self, at_most: int | None = None) -> None:
        """Put conversations that have ended into the prefix cache: before the next prompt, or when none runs."""
        for slot in [slot for slot in self._slots if slot.unkept][:at_most]:
            slot.unkept = False
            self._guarded(slot, partial(self._prefixes.keep, slot.decoder.cache, slot.decoder.at_their_positions))

    def _count(self, job: Job, stats: AnswerStats) -> None:
        now = perf_counter()
        self.pace.observe_answer(now - job.admitted_s)
        self.counts.add(stats, waited_s=job.admitted_s - job.submitted_s)

    def _guarded(self, slot: Slot, work: Callable[[], object]) -> None:
        """What goes wrong in the work for one conversation is reported to that one."""
        try:
            work()
        except Exception as error:  # a bug of the server must not end the thread and every other answer either
            self._fail(slot, as_engine_error(error))

    def _fail(self, slot: Slot, error: EdgeInferError) -> None:
        job = slot.job
        self._leave(slot, "failed")
        if job is not None:
            job.report(Failed(error))
        try:
            slot.decoder.forget()
        except Exception:  # then this slot takes no more prompts; `stalled` says so when none is left
            slot.broken = True

    def _leave(self, slot: Slot, state: State) -> None:
        job, slot.job = slot.job, None
        slot.last_used = self._n_steps + 1
        if job is not None:
            job.state = state
        self.counts.canceled += state == "canceled"
        self.counts.failed += state == "failed"


def fills_its_window(cache: Cache) -> bool:
    """Whether the first keys are about to leave it."""
    return 0 < cache.policy.window - cache.length <= LAST_ROWS


def as_engine_error(error: Exception) -> EdgeInferError:
    if isinstance(error, EdgeInferError):
        return error
    return EngineError(f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:200]}")

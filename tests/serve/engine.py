"""A scheduler over a model without weights, driven step by step in the thread of the test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from edgeinfer.decode.loop import Decoder
from edgeinfer.errors import EngineError
from edgeinfer.protocols import Ask, Row, as_id
from edgeinfer.serve.engine.job import Ended, Event, Failed, Job, Task
from edgeinfer.serve.engine.scheduler import Scheduler
from edgeinfer.serve.engine.slots import Slot
from edgeinfer.serve.engine.text import AnswerText
from edgeinfer.types import GREEDY, Prompt, Sampling
from edgeinfer.window import WindowPolicy
from tests.unit.fake_model import N_VOCAB, FakeModel

POLICY = WindowPolicy(window=64, sink=8, block=8, limit=400)


class Letters:
    """A tokenizer whose tokens are the letters a, b, c ..."""

    n_vocab = N_VOCAB
    stop_tokens: frozenset[int] = frozenset()
    chat_template = None
    bos_text = eos_text = ""
    control_texts: frozenset[str] = frozenset()

    def encode(self, text: str, *, special: bool) -> list[int]:
        return [(ord(letter) - ord("a")) % N_VOCAB for letter in text]

    def piece(self, token: int) -> bytes:
        return bytes([ord("a") + token])


@dataclass
class Engine:
    """An engine that fails on a conversation that begins with `poison`, after `after` of its tokens."""

    n_slots: int = 4
    poison: tuple[int, ...] = ()
    after: int = 0
    max_waiting: int | None = None
    rest_after_s: float | None = None
    asked: list[list[int]] = field(default_factory=list)  # number of rows of each ask, per run

    def __post_init__(self) -> None:
        self.model = FakeModel()
        self.slots = [Slot(Decoder(self.model, POLICY)) for _ in range(self.n_slots)]
        self.scheduler = Scheduler(self, self.slots, max_waiting=self.max_waiting, rest_after_s=self.rest_after_s)

    def run(self, asks: Sequence[Ask]) -> Sequence[Sequence[Row]]:
        self.asked.append([len(ask.tokens) for ask in asks])
        if self.poison and any(self.is_poisoned(ask) for ask in asks):
            raise EngineError("the engine gave up")
        return self.model.run(asks)

    def rest(self) -> None:
        self.model.rest()

    def is_poisoned(self, ask: Ask) -> bool:
        cache: Any = ask.round
        run: list[int] = cache._cache.tokens
        return len(run) >= self.after and tuple([*run, *map(as_id, ask.tokens)][: len(self.poison)]) == self.poison

    def job(self, prompt: Sequence[int], n: int = 20, sampling: Sampling = GREEDY, **text: Any) -> Heard:
        """`text` are the arguments of AnswerText."""
        heard = Heard()
        task = Task(Prompt(tuple(prompt)), sampling, n, frozenset())
        heard.job = Job(task, AnswerText(Letters(), **text), heard.events.append)
        return heard

    def submit(self, *heard: Heard) -> None:
        self.scheduler.submit([one.job for one in heard])

    def until_idle(self, limit: int = 10_000) -> int:
        """Runs steps until no job is left, and returns their number."""
        for step in range(limit):
            if self.scheduler.idle:
                return step
            self.scheduler.step()
        raise AssertionError("the scheduler does not come to rest")

    def alone(self, prompt: Sequence[int], n: int = 20, sampling: Sampling = GREEDY) -> list[int]:
        """The tokens of an answer of plain decoding."""
        decoder = Decoder(FakeModel(), POLICY)
        return list(decoder.stream(Prompt(tuple(prompt)), sampling, max_tokens=n, stop_tokens=frozenset()))


@dataclass
class Heard:
    """A job and what it reported."""

    events: list[Event] = field(default_factory=list)
    job: Any = None

    @property
    def tokens(self) -> list[int]:
        tokens: list[int] = self.job.text.tokens
        return tokens

    @property
    def last(self) -> Event:
        return self.events[-1]

    @property
    def finish(self) -> str:
        return self.last.finish if isinstance(self.last, Ended) else ""

    @property
    def error(self) -> str:
        return str(self.last.error) if isinstance(self.last, Failed) else ""

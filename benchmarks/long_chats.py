"""Chats that run far past their window: a real one that keeps its text, and one of tokens alone."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass
from typing import Final, Protocol

import edgeinfer
from edgeinfer.bench.memory_use import rss_bytes
from edgeinfer.bench.opened import OpenedModel
from edgeinfer.decode.drafting import measure, new_drafting
from edgeinfer.decode.loop import Decoder
from edgeinfer.decode.stats import AnswerStats
from edgeinfer.plan.types import Plan
from edgeinfer.prefill import prefill
from edgeinfer.protocols import Cache
from edgeinfer.types import Prompt, Sampling, Tokens, compact

_SYSTEM: Final = "You are a patient storyteller."
_ASK: Final = "Go on, please. What happened then, and who was there to see it?"
_ANSWER: Final = 200  # tokens of an answer, at most
_ROW: Final = struct.Struct("=2i2d3iq")  # a Turn


@dataclass(frozen=True, slots=True)
class Turn:
    """After one answer: tokens of the chat so far, and what this answer took."""

    tokens: int
    emitted: int
    decode_s: float
    prefill_s: float
    reprefilled: int
    evicted: int
    reanchored: int
    rss_bytes: int


class Talk(Protocol):
    def go_on(self, seed: int) -> AnswerStats:
        """One more question and its answer."""
        ...


class Record:
    """A chat and what its turns took: a few bytes each, as memory of this process is what is measured."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._rows = bytearray()
        self.n_turns = self.n_tokens = 0

    @property
    def turns(self) -> list[Turn]:
        return [Turn(*row) for row in _ROW.iter_unpack(self._rows)]

    def turn(self) -> Turn:
        stats = self._talk.go_on(self.n_turns)
        turn = Turn(
            tokens=stats.prompt + stats.emitted,
            emitted=stats.emitted,
            decode_s=stats.decode_s,
            prefill_s=stats.prefill_s,
            reprefilled=stats.reprefilled,
            evicted=stats.evicted,
            reanchored=stats.reanchored,
            rss_bytes=rss_bytes(),
        )
        self._rows += _ROW.pack(*astuple(turn))
        self.n_turns, self.n_tokens = self.n_turns + 1, turn.tokens
        return turn

    def until(self, n_tokens: int) -> None:
        while self.n_tokens < n_tokens:
            self.turn()

    def until_evicted(self) -> None:
        while not self.turn().evicted:
            pass


@contextmanager
def session_chat(plan: Plan, template: str = "") -> Iterator[Record]:
    """A user's chat, which keeps all that was said, and is asked to continue again and again."""
    with edgeinfer.load(plan, template=template) as model:
        chat = model.chat(system=_SYSTEM, max_tokens=_ANSWER)

        class Continued:
            def go_on(self, seed: int) -> AnswerStats:
                return chat.ask(_ASK, sampling=_sampling(seed)).stats

        yield Record(Continued())


@contextmanager
def token_chat(subject: OpenedModel) -> Iterator[Record]:
    """The same without text and template: cache, decoder and drafters, and the tokens. A window that was full and a
    verification of as many rows as there may be have touched the engine's buffers: these do not count as growth."""
    tokenizer = subject.model.tokenizer
    ask, tokens = tokenizer.encode(_ASK, special=True), compact(tokenizer.encode(_SYSTEM, special=True))
    n_system, starts = len(tokens), [0]
    model, plan = subject.model, subject.plan
    with closing(new_drafting(model, plan, measure(model, plan))) as drafting:
        decoder = Decoder(model, plan.window, controller=drafting.controller, drafters=drafting.drafters)

        _touch(decoder.cache, tokens, max(1, plan.speculation.max_rows))

        class Alone:
            def go_on(self, seed: int) -> AnswerStats:
                starts.append(len(tokens))
                tokens.extend(ask)
                prompt = Prompt(tokens, n_system, tuple(starts))
                answer = list(decoder.stream(prompt, _sampling(seed), max_tokens=_ANSWER, stop_tokens=frozenset()))
                tokens.extend(answer)
                return decoder.stats

        with closing(decoder):
            yield Record(Alone())


def _touch(cache: Cache, tokens: Tokens, n_rows: int) -> None:
    n = cache.policy.window - n_rows
    prefill(cache, (list(tokens) * n)[:n])
    step = cache.begin(n_rows)
    for row in step.verify([tokens[0]] * n_rows):
        row.argmax()
    step.rollback()
    cache.rewind(0)


def _sampling(seed: int) -> Sampling:
    return Sampling(temperature=0.8, top_k=40, seed=seed)

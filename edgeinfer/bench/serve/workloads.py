"""What the clients do, and what is measured. Workloads with different seeds share no prompt."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Final

from edgeinfer.bench.serve.client import TIMEOUT_S, Messages, Streamed, stream, together
from edgeinfer.bench.serve.servers import Server

TEXT: Final = (
    "the sea brought a lamp to the harbor wall and nobody asked who had lit it before winter came over the islands "
    "while seven boats stood in the ice waiting for news of a captain whose daughter kept every letter in a tin box "
    "under stairs that led down into cold water where old stones remembered more than people did about storms"
)
QUESTION: Final = "Tell a long story about it."
LONG_ANSWER: Final = 220  # tokens of a chat that runs while a long prompt arrives
STARTED: Final = 4  # pieces of each such chat, before it arrives
AFTER_TURN: Final = 24  # tokens of the answers whose first token is timed


@dataclass(frozen=True, slots=True)
class Load:
    """Clients that ask at the same time."""

    n_tokens: int
    seconds: float  # from the first request to the last token
    first_s: tuple[float, ...]
    between_s: tuple[float, ...]  # times between pieces
    writing_s: tuple[float, ...]  # of each answer, from its first token to its last
    texts: tuple[str, ...]  # the answers

    @property
    def tokens_per_s(self) -> float:
        return self.n_tokens / self.seconds

    @property
    def tokens_per_s_after_first(self) -> float:
        """Of one client."""
        return (self.n_tokens - len(self.writing_s)) / sum(self.writing_s)


def text_of(n_words: int, seed: int) -> str:
    """Random words: two texts share parts only by chance."""
    return " ".join(random.Random(seed).choices(TEXT.split(), k=n_words))


def ask(
    server: Server, messages: Messages, n_tokens: int, on_piece: Callable[[int], None] = lambda _: None
) -> Streamed:
    return stream(server.port, server.model, messages, n_tokens, on_piece, never=server.stops)


def load(server: Server, n_clients: int, n_tokens: int, seed: int) -> Load:
    """`n_clients` ask for `n_tokens` each, for a prompt of some 40 words."""

    def one(client: int) -> Streamed:
        question = f"{text_of(40, 1000 * seed + client)}. {QUESTION}"
        return ask(server, [("user", question)], n_tokens)

    answers = together([partial(one, client) for client in range(n_clients)])
    began, ended = min(one.asked_s for one in answers), max(one.pieces[-1] for one in answers)
    between = [late - early for one in answers for early, late in pairwise(one.pieces)]
    total = sum(one.n_tokens for one in answers)
    first, writing = tuple(one.first_s for one in answers), tuple(one.writing_s for one in answers)
    return Load(total, ended - began, first, tuple(between), writing, tuple(one.text for one in answers))


def longest_gap(server: Server, n_words: int, seed: int, n_running: int = 2) -> float:
    """The longest time, in seconds, that a running chat stands still while a prompt of `n_words` is read."""
    started = threading.Barrier(n_running + 1)

    def chat(client: int) -> Streamed:
        question = f"{text_of(30, 1000 * seed + client)}. {QUESTION}"
        return ask(server, [("user", question)], LONG_ANSWER, on_piece)

    def on_piece(n: int) -> None:
        if n == STARTED:
            started.wait(TIMEOUT_S)

    def arrive() -> Streamed:
        started.wait(TIMEOUT_S)
        question = f"{text_of(n_words, 1000 * seed + 999)}. What was that?"
        return ask(server, [("user", question)], 4)

    calls: list[Callable[[], Streamed]] = [arrive, *(partial(chat, client) for client in range(n_running))]
    arrived, *chats = together(calls)
    window = (arrived.asked_s, arrived.pieces[0])
    return max(gap for one in chats for gap in gaps_within(one.pieces, *window))


def gaps_within(pieces: Sequence[float], start: float, stop: float) -> list[float]:
    """Times between pieces that overlap [start, stop]; 0 for an answer that was over."""
    return [late - early for early, late in pairwise(pieces) if late > start and early < stop] or [0.0]


def second_turn(server: Server, n_words: int, seed: int) -> float:
    """Seconds to the first token of the second turn of a chat whose first message has `n_words`."""
    first = f"{text_of(n_words, seed)}. {QUESTION}"
    answer = ask(server, [("user", first)], AFTER_TURN)
    chat = [("user", first), ("assistant", answer.text), ("user", "And what happened then?")]
    return ask(server, chat, AFTER_TURN).first_s


def repeated_system(server: Server, n_words: int, n_slots: int, seed: int) -> float:
    """Seconds to the first token of a new chat whose system prompt another chat had, before `n_slots` unlike ones."""
    system = ("system", text_of(n_words, seed))
    ask(server, [system, ("user", "Who are you?")], AFTER_TURN)
    for other in range(n_slots):
        unlike = f"{text_of(60, 1000 * seed + other)}. {QUESTION}"
        ask(server, [("user", unlike)], AFTER_TURN)
    return ask(server, [system, ("user", "What do you know?")], AFTER_TURN).first_s

"""The answers of Python with the same bundle: this project's decoder on the backend `executorch`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import edgeinfer
from edgeinfer import Request
from edgeinfer.backends.executorch.bundle import load_bundle
from edgeinfer.decode.drafters.early_exit import EarlyExit
from edgeinfer.decode.loop import Decoder
from edgeinfer.decode.policy.arms import Arm, Fixed
from edgeinfer.types import GREEDY, KvType, Prompt, Sampling
from edgeinfer.window import WindowPolicy


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer to a prompt of token ids."""

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling = GREEDY
    n_read: int | None = None  # tokens after which the reader stops


@dataclass(frozen=True, slots=True)
class Drafted:
    """An answer, and what was drafted for it."""

    tokens: tuple[int, ...]
    rounds: int
    drafted: int
    accepted: int
    reanchored: int


def drafted_answers(bundle: Path, policy: WindowPolicy, turns: Sequence[Turn], depth: int) -> list[Drafted]:
    """One conversation, each round of which has `depth` taught drafts, or as many as it may have."""
    model = load_bundle(bundle, n_threads=1)
    name, stops = model.drafts_with, model.tokenizer.stop_tokens
    decoder = Decoder(model, policy, controller=Fixed(Arm(name, depth)), drafters={name: EarlyExit(name)})
    said = []
    for turn in turns:
        tokens = decoder.stream(Prompt(turn.prompt), turn.sampling, max_tokens=turn.max_tokens, stop_tokens=stops)
        read = tuple(token for token in islice(tokens, turn.n_read) if token not in stops)
        tokens.close()  # type: ignore[attr-defined]  # a generator
        arms = decoder.stats.arms.values()
        said.append(
            Drafted(
                read,
                rounds=sum(arm.rounds for arm in arms),
                drafted=sum(arm.drafted for arm in arms),
                accepted=sum(arm.accepted for arm in arms),
                reanchored=decoder.stats.reanchored,
            )
        )
    decoder.close()
    model.close()
    return said


def answers(bundle: Path, policy: WindowPolicy, turns: Sequence[Turn], kv_type: KvType = "f32") -> list[list[int]]:
    """One conversation, decoded plainly, that reuses its cache between turns. Tokens that end a turn are left out."""
    model = load_bundle(bundle, n_threads=1, kv_type=kv_type)
    decoder, stops = Decoder(model, policy), model.tokenizer.stop_tokens
    said = []
    for turn in turns:
        tokens = decoder.stream(Prompt(turn.prompt), turn.sampling, max_tokens=turn.max_tokens, stop_tokens=stops)
        said.append([token for token in tokens if token not in stops])
    decoder.close()
    model.close()
    return said


@dataclass(frozen=True, slots=True)
class Ask:
    """A question of a chat."""

    text: str
    max_tokens: int = 40
    sampling: Sampling = GREEDY
    stop: tuple[str, ...] = ()
    rewind: int | None = None  # number of messages to keep before the question


@dataclass(frozen=True, slots=True)
class Reply:
    text: str
    tokens: tuple[int, ...]
    finish: str
    reused: int


def replies(bundle: Path, context: int, system: str, asks: Sequence[Ask]) -> list[Reply]:
    """A Python chat with the bundle, decoded plainly."""
    request = Request(model=str(bundle), backend="executorch", context=context, sink=64, speculation="off")
    said = []
    with edgeinfer.load(request) as model:
        chat = model.chat(system)
        for ask in asks:
            if ask.rewind is not None:
                chat.turns = chat.turns[: ask.rewind]
            answer = chat.ask(ask.text, sampling=ask.sampling, max_tokens=ask.max_tokens, stop=ask.stop)
            said.append(Reply(answer.text, answer.tokens, answer.finish_reason, answer.stats.reused))
    return said

"""The answers of Python with the same bundle: this project's decoder on the backend `executorch`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import edgeinfer
from edgeinfer import Request
from edgeinfer.backends.executorch.bundle import load_bundle
from edgeinfer.decode.loop import Decoder
from edgeinfer.types import GREEDY, KvType, Prompt, Sampling
from edgeinfer.window import WindowPolicy


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer to a prompt of token ids."""

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling = GREEDY


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

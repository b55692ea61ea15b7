"""What is measured before a model is taught: row costs on this device, and the tokens that begin texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import edgeinfer
from edgeinfer.chat.template import CHATML, Renderer, Template
from edgeinfer.decode.drafting import measure
from edgeinfer.errors import UsageError
from edgeinfer.named_files import Waiting, read_text, silently
from edgeinfer.plan.types import Plan
from edgeinfer.protocols import Tokenizer
from edgeinfer.runner.opening import open_file
from edgeinfer.tune.openings import openings
from edgeinfer.tune.turns import Turns, find_turns
from edgeinfer.types import Message

__all__ = ["JUDGED_PROMPTS", "GivenText", "Prepared", "prepare"]

JUDGED_PROMPTS: Final = Path(edgeinfer.__file__).parent / "bench/data/prompts.jsonl"
_MOST_LINES: Final = 1_000_000
_MOST_BYTES: Final = 1 << 30
_ROLES: Final = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class GivenText:
    """The user's own conversations, one after the other: [n] token ids, and whether the assistant wrote each."""

    tokens: tuple[int, ...]
    by_assistant: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    row_costs: tuple[float, ...]  # time of 1, 2, ... rows in plain rounds
    turns: Turns | None  # None where the text is given
    openings: tuple[tuple[int, ...], ...]  # messages of use to begin with, up to the opening of the answer
    prompts: tuple[tuple[int, ...], ...]  # questions for the judge, likewise; none of them is in `openings`
    given: GivenText | None

    def row_cost(self, n_rows: int) -> float:
        return self.row_costs[n_rows - 1]


def prepare(plan: Plan, path: Path, *, data: Path | None, waiting: Waiting = silently) -> Prepared:
    """Opens the model, measures, and closes it, so that the memory is free again.

    Raises UsageError for a template that cannot be followed, and for `data` that holds no conversations.
    """
    with ExitStack() as stack:
        renderer = Renderer()
        stack.callback(renderer.close)
        model = open_file(plan, path, stack)
        costs = measure(model, plan)
        tokenizer = model.tokenizer
        source = tokenizer.chat_template or CHATML
        template = Template(renderer, source, bos=tokenizer.bos_text, eos=tokenizer.eos_text)
        turns = None if data else find_turns(template.render, tokenizer)
        return Prepared(
            tuple(costs.ratio("verify", n) for n in range(1, costs.max_rows + 1)) if costs else (1.0,),
            turns,
            encode_openings(turns, tokenizer) if turns else (),
            tuple(
                tuple(tokenizer.encode(template.render(messages), special=True))
                for messages in read_conversations(JUDGED_PROMPTS)
            ),
            encode_all(read_conversations(data, waiting), template, tokenizer) if data else None,
        )


def encode_openings(turns: Turns, tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """Each first message as the template writes it."""
    after = (turns.end, *turns.to_assistant)
    return tuple((*turns.opening, *tokenizer.encode(text, special=False), *after) for text in openings(seed=0))


def read_conversations(path: Path, waiting: Waiting = silently) -> list[list[Message]]:
    """JSON lines of {"messages": [{"role": ..., "content": ...}, ...]}. Raises UsageError, naming the line."""
    hint = 'one conversation a line: {"messages": [{"role": "user", "content": "..."}, ...]}'
    text = read_text(path, title=f"`{path}`", most_bytes=_MOST_BYTES, hint=hint, waiting=waiting)
    found = []
    for number, line in enumerate(text.splitlines()[:_MOST_LINES], 1):
        if not line.strip():
            continue
        try:
            messages = [Message(one["role"], one["content"]) for one in json.loads(line)["messages"]]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise UsageError(f"{path}, line {number}: no conversation", hint=hint) from error
        if not messages or not all(one.role in _ROLES and isinstance(one.content, str) for one in messages):
            raise UsageError(f"{path}, line {number}: roles are {', '.join(_ROLES)}, contents are texts", hint=hint)
        found.append(messages)
    if not found:
        raise UsageError(f"{path} holds no conversation", hint=hint)
    return found


def encode_all(conversations: Sequence[Sequence[Message]], template: Template, tokenizer: Tokenizer) -> GivenText:
    tokens: list[int] = []
    by_assistant: list[bool] = []
    for messages in conversations:
        for text, is_answer in spans(messages, template):
            ids = tokenizer.encode(text, special=True)
            tokens += ids
            by_assistant += [is_answer] * len(ids)
    if not any(by_assistant):
        raise UsageError("no conversation has an answer of the assistant", hint="a draft learns from answers")
    return GivenText(tuple(tokens), tuple(by_assistant))


def spans(messages: Sequence[Message], template: Template) -> list[tuple[str, bool]]:
    """The rendered conversation in pieces, and whether the assistant wrote each. An answer has its end of turn."""
    found: list[tuple[str, bool]] = []
    at = 0
    for n, message in enumerate(messages):
        if message.role != "assistant":
            continue
        before = template.render(messages[:n])
        after = template.probe(messages[: n + 1], opening=False)
        if after is None or len(before) < at or not after.startswith(before):
            raise UsageError("the chat template does not write answers as they were asked for", hint="leave --data out")
        found += [(before[at:], False), (after[len(before) :], True)]
        at = len(after)
    return found

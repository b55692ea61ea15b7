"""The text of a job: what is taught, what is held out, and answers to prompts. Finished parts are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from edgeinfer.tune.conversations import ASSISTANT, USER, Conversations, joined, read_part, write, write_part
from edgeinfer.tune.prepare import GivenText, Prepared
from edgeinfer.tune.torch_model import TorchModel
from edgeinfer.tune.turns import Turns
from edgeinfer.tune.work import Sizes, Work

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Text", "first_answers", "first_greedy", "text_of"]

_ANSWER_TOKENS: Final = 64  # room for each answer that is judged, at least
_JUDGED_TOKENS: Final = 128  # of each answer, at most: a small model that does not end repeats itself, which is easy
_HELD_OUT_SHARE: Final = 0.1  # of given text


@dataclass(frozen=True, slots=True)
class Text:
    """`answers` are greedy answers to prompts that are not taught; the held-out text where no template is followed."""

    taught: Conversations
    held_out: Conversations
    answers: Conversations


def text_of(
    folder: Path, model: TorchModel, prepared: Prepared, work: Work, wrote: Callable[[int, int, int], None]
) -> Text:
    """Writes the parts that are not in `folder` yet. `wrote` is called with parts, parts in all, and tokens."""
    if prepared.given is not None or prepared.turns is None:
        assert prepared.given is not None  # one of the two is given
        return _given(prepared.given, work.sizes)
    parts = []
    for index in range(work.n_parts):
        path = folder / f"text-{index:03}.pt"
        if not path.exists():
            starts, speaker = _starts(prepared, prepared.turns, index, work.sizes.part_rows)
            write_part(
                path, write(model, prepared.turns, starts, speaker=speaker, n_tokens=work.sizes.n_tokens, seed=index)
            )
        parts.append(read_part(path))
        wrote(index + 1, work.n_parts, (index + 1) * work.sizes.part_tokens)
    return Text(joined(parts[1:]), parts[0], _answers(folder, model, prepared.turns, prepared, work.sizes))


def _starts(prepared: Prepared, turns: Turns, index: int, n_rows: int) -> tuple[list[tuple[int, ...]], int]:
    """How the conversations of a part begin, and who speaks next: every second part answers messages of use."""
    if index % 2 == 0 or not prepared.openings:
        return [turns.opening] * n_rows, USER
    first = index // 2 * n_rows
    return [prepared.openings[(first + row) % len(prepared.openings)] for row in range(n_rows)], ASSISTANT


def _answers(folder: Path, model: TorchModel, turns: Turns, prepared: Prepared, sizes: Sizes) -> Conversations:
    path = folder / "answers.pt"
    if not path.exists():
        short = [prompt for prompt in prepared.prompts if len(prompt) + _ANSWER_TOKENS <= sizes.n_tokens]
        chosen = short[:: max(1, len(short) // sizes.part_rows)][: sizes.part_rows]
        write_part(
            path,
            write(model, turns, chosen, speaker=ASSISTANT, n_tokens=sizes.n_tokens, seed=0, greedy_share=1.0),
        )
    return first_answers(read_part(path))


def first_answers(data: Conversations) -> Conversations:
    """Only the first answer of each conversation counts as the assistant's, up to `_JUDGED_TOKENS`."""
    ended = (data.own[:, :-1] & ~data.own[:, 1:]).cumsum(1) > 0
    own = data.own.clone()
    own[:, 1:] &= ~ended
    return replace(data, own=own & (own.cumsum(1) <= _JUDGED_TOKENS))


def _given(given: GivenText, sizes: Sizes) -> Text:
    """Cut into rows of equal length; the last tenth is held out."""
    n_rows = len(given.tokens) // sizes.n_tokens
    n_used = n_rows * sizes.n_tokens
    tokens = torch.tensor(given.tokens[:n_used], dtype=torch.int32).reshape(n_rows, sizes.n_tokens)
    by_assistant = torch.tensor([*given.by_assistant[1:], False][:n_used]).reshape(n_rows, sizes.n_tokens)
    n_held = max(1, int(n_rows * _HELD_OUT_SHARE))

    def rows(some: slice) -> Conversations:
        own: Tensor = by_assistant[some].clone()
        own[:, -1] = False  # the next token is in another row
        return Conversations(tokens[some], own, torch.ones(len(own), dtype=torch.bool))

    held_out = rows(slice(n_rows - n_held, None))
    return Text(rows(slice(n_rows - n_held)), held_out, held_out)


def first_greedy(data: Conversations, n: int) -> Conversations:
    """The first `n` conversations whose answers are greedy, which are the ones that are judged."""
    rows = data.greedy.nonzero().flatten()[:n]
    return replace(data, tokens=data.tokens[rows], own=data.own[rows], greedy=data.greedy[rows])

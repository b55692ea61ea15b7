"""Text for teaching, written by the model itself: both sides of a conversation. No data is needed.

The method is Magpie's (arXiv 2406.08464): given its own template up to the opening of a user's turn, a chat model
writes a user's message. Then it answers, then it writes the next message, until the text is full. A conversation may
also begin with given tokens, such as a question.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from edgeinfer.tune.torch_model import GenerationCache, TorchModel
from edgeinfer.tune.turns import Turns

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "ASSISTANT",
    "USER",
    "Conversations",
    "batches",
    "joined",
    "read_part",
    "sampled_tokens",
    "write",
    "write_part",
]

USER, ASSISTANT = 0, 1
_USER_TEMPERATURE: Final = 1.0  # messages must differ from each other
_ANSWER_TEMPERATURE: Final = 0.7  # of the half of the answers that are not greedy
_TOP_K: Final = 50  # keeps a small model from leaving the language


@dataclass(frozen=True, slots=True)
class Conversations:
    """`tokens` [B, T] int32; `own` [B, T] bool: the next token was written by the assistant; `greedy` [B] bool."""

    tokens: Tensor
    own: Tensor
    greedy: Tensor

    def __len__(self) -> int:
        return len(self.tokens)


class _Writer:
    """The state of a batch of conversations: whose turn it is, and which template tokens are still due."""

    def __init__(self, turns: Turns, speaker: int, n_rows: int, device: torch.device) -> None:
        heads = (turns.to_user, turns.to_assistant)
        self._width = max(map(len, heads))
        padded = [[*head, *[0] * (self._width - len(head))] for head in heads]
        self._heads = torch.tensor(padded, device=device).flatten()
        self._lengths = torch.tensor([len(head) for head in heads], device=device)
        self._end = turns.end
        self.role = torch.full((n_rows,), speaker, dtype=torch.long, device=device)
        self._done = torch.full((n_rows,), self._width, device=device)  # template tokens written since the turn began

    def take(self, sampled: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
        """The next token of each conversation, and whether the model chose it. `given` [B] has -1 for no given token;
        a given token changes no turn."""
        due = self._done < self._lengths[self.role]
        template = self._heads[self.role * self._width + self._done.clamp(max=self._width - 1)]
        token = torch.where(due, template, sampled)
        free = given < 0
        ended = free & ~due & (token == self._end)
        self._done = torch.where(ended, 0, torch.where(free & due, self._done + 1, self._done))
        self.role = torch.where(ended, 1 - self.role, self.role)
        return torch.where(free, token, given), free & ~due


@torch.no_grad()
def write(
    model: TorchModel,
    turns: Turns,
    starts: Sequence[Sequence[int]],
    *,
    speaker: int,
    n_tokens: int,
    seed: int,
    greedy_share: float = 0.5,
) -> Conversations:
    """A conversation of `n_tokens` after each of `starts`, where `speaker` (USER or ASSISTANT) speaks first.

    The same seed gives the same text on the same device.
    """
    device = model.device
    n_rows = len(starts)
    noise = torch.Generator(device).manual_seed(seed)
    cache = GenerationCache(model, n_rows, n_tokens)
    writer = _Writer(turns, speaker, n_rows, device)
    greedy = torch.rand(n_rows, generator=noise, device=device) < greedy_share
    given = torch.tensor([[*start, *[-1] * (n_tokens - len(start))] for start in starts], device=device)
    tokens = torch.zeros((n_rows, n_tokens), dtype=torch.long, device=device)
    own = torch.zeros((n_rows, n_tokens), dtype=torch.bool, device=device)
    tokens[:, 0] = given[:, 0]
    for at in range(n_tokens - 1):
        logits = model.step(tokens[:, at], cache)
        speaking = writer.role == ASSISTANT
        temperature = torch.where(speaking, torch.where(greedy, 0.0, _ANSWER_TEMPERATURE), _USER_TEMPERATURE)
        tokens[:, at + 1], chosen = writer.take(sampled_tokens(logits.float(), temperature, noise), given[:, at + 1])
        own[:, at] = speaking & chosen
    return Conversations(tokens.to(torch.int32).cpu(), own.cpu(), greedy.cpu())


def sampled_tokens(logits: Tensor, temperature: Tensor, noise: torch.Generator) -> Tensor:
    """Gumbel-max among the likeliest tokens: [B]. Temperature 0 is greedy."""
    uniform = torch.rand(logits.shape, generator=noise, device=logits.device).clamp_(1e-9, 1 - 1e-7)
    least = logits.topk(min(_TOP_K, logits.shape[-1])).values[:, -1:]
    noisy = logits - temperature[:, None] * (-uniform.log()).log()
    return noisy.masked_fill(logits < least, float("-inf")).argmax(-1)


def batches(data: Conversations, n_rows: int, *, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens [n_rows, T] and `own` [n_rows, T] in a new order each pass, without end."""
    order = torch.Generator().manual_seed(seed)
    while True:
        shuffled = torch.randperm(len(data), generator=order)
        for rows in shuffled.split(min(n_rows, len(data))):
            yield data.tokens[rows].long(), data.own[rows]


def joined(parts: Sequence[Conversations]) -> Conversations:
    return Conversations(
        torch.cat([part.tokens for part in parts]),
        torch.cat([part.own for part in parts]),
        torch.cat([part.greedy for part in parts]),
    )


def write_part(path: Path, part: Conversations) -> None:
    """Write a part of the text to a file, whole or not at all."""
    unfinished = path.with_suffix(".part")
    torch.save({"tokens": part.tokens, "own": part.own, "greedy": part.greedy}, unfinished)
    unfinished.replace(path)


def read_part(path: Path) -> Conversations:
    kept = torch.load(path, weights_only=True)
    return Conversations(kept["tokens"], kept["own"], kept["greedy"])

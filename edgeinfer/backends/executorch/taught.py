"""A taught draft in a program: the inputs of its layer and the layer are methods, run by the engine.

An exit draft starts from the states of the model's own first layers, which a verify of the same tokens does not run
again. A feature draft needs the states that `forward` hands out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from edgeinfer.backends.executorch.engine import Floats, Program, TaughtRings
from edgeinfer.backends.taught import ExitDrafts, FeatureDrafts, RankedRow, TapTable
from edgeinfer.protocols import Row, TokenLike, as_id
from edgeinfer.types import DraftsWith
from edgeinfer.window import WindowPolicy

__all__ = ["ConversationDrafts", "ExecutorchTaught"]

FirstLayers: TypeAlias = Callable[[Sequence[int], int], Floats]
"""States [T, hidden] of tokens at a position, after the layers before an exit draft."""


class ConversationDrafts(Protocol):
    """The taught drafts of one conversation, as a round uses them."""

    def draft(self, token: int, position: int) -> tuple[Row, Floats | None]:
        """The row after `token`, and the state [hidden] of the first layers where they were run for it."""
        ...

    def end(self, n_kept: int) -> None:
        """See TaughtDrafts."""
        ...

    def saw(self, tokens: Sequence[int], seen: Floats) -> None:
        """Committed tokens, after `end`, with what the forward gave for the draft: tapped states or those of the first
        layers, [T, ...]."""
        ...

    def rewind(self, length: int) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ExecutorchTaught:
    """A program's draft, shared by the conversations of its model."""

    program: Program
    ranked: npt.NDArray[np.int32]  # the draft's tokens

    @property
    def kind(self) -> DraftsWith:
        return "feature" if self.program.info.draft_n_taps else "exit"

    def on(self, policy: WindowPolicy, first_layers: FirstLayers) -> ConversationDrafts:
        """The drafts of a new conversation."""
        info = self.program.info
        rings = self.program.new_taught_rings(policy)
        layer = _Layer(rings, policy, info.max_tokens)
        if self.kind == "exit":
            return _FromStates(ExitDrafts(layer, np.stack, self._row), first_layers)
        table = TapTable(info.draft_n_taps * info.hidden)
        return _FromTaps(FeatureDrafts(_Inputs(rings, info.max_tokens), layer, table, self._row))

    def _row(self, logits: Floats) -> RankedRow:
        return RankedRow(logits, self.ranked, self.program.info.n_vocab)


@dataclass(frozen=True, slots=True)
class _FromTaps:
    """See ConversationDrafts."""

    drafts: FeatureDrafts[Floats]

    def draft(self, token: int, position: int) -> tuple[Row, None]:
        return self.drafts.draft(token, position), None

    def end(self, n_kept: int) -> None:
        self.drafts.end(n_kept)

    def saw(self, tokens: Sequence[int], seen: Floats) -> None:
        self.drafts.saw(tokens, seen)

    def rewind(self, length: int) -> None:
        self.drafts.rewind(length)

    def close(self) -> None:
        self.drafts.close()


@dataclass(frozen=True, slots=True)
class _FromStates:
    """See ConversationDrafts."""

    drafts: ExitDrafts[Floats, Floats]
    first_layers: FirstLayers

    def draft(self, token: int, position: int) -> tuple[Row, Floats]:
        [state] = self.first_layers([token], position)
        return self.drafts.draft(state, position), state

    def end(self, n_kept: int) -> None:
        self.drafts.end(n_kept)

    def saw(self, tokens: Sequence[int], seen: Floats) -> None:
        del tokens
        self.drafts.saw(list(seen), seen)

    def rewind(self, length: int) -> None:
        self.drafts.rewind(length)

    def close(self) -> None:
        self.drafts.close()


class _Layer:
    """See backends.taught.DraftLayer."""

    def __init__(self, rings: TaughtRings, policy: WindowPolicy, max_tokens: int) -> None:
        self._rings, self._policy, self._max_tokens = rings, policy, max_tokens
        self.first = self.length = 0

    @property
    def room(self) -> int:
        return min(self._max_tokens, self._policy.room(self.length))

    def feed(self, inputs: Floats) -> None:
        self.run(inputs)

    def run(self, inputs: Floats) -> tuple[Floats, Floats]:
        found = self._rings.layer(inputs, self.length, self.first)
        self.length += len(inputs)
        return found

    def rewind(self, length: int) -> None:
        self.length = length

    def start_at(self, position: int) -> None:
        self.first = self.length = position

    def close(self) -> None:
        self._rings.close()


@dataclass(frozen=True, slots=True)
class _Inputs:
    """See backends.taught.DraftInputs."""

    rings: TaughtRings
    max_tokens: int

    def known(self, tapped: Floats) -> Floats:
        return np.concatenate([self.rings.known(tapped[piece]) for piece in self._pieces(len(tapped))])

    def rows(self, tokens: Sequence[TokenLike], known: Floats) -> Floats:
        ids = [as_id(token) for token in tokens]
        return np.concatenate([self.rings.inputs(ids[piece], known[piece]) for piece in self._pieces(len(ids))])

    def _pieces(self, n: int) -> list[slice[Any, Any, Any]]:
        return [slice(at, at + self.max_tokens) for at in range(0, n, self.max_tokens)]

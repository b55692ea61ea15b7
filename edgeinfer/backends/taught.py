"""A taught draft on one conversation. The engine runs the draft's layer; this module decides its inputs and when
they are run. The arrays are those of the engine; what NumPy needs in addition is at the end.

A feature draft's row at position p needs the token there and the model's states at p - 1. So committed tokens and
the newest one have true inputs; deeper drafts of a round use the state of the draft layer instead. Keys of true
rows stay; those of deeper drafts end with their round.

An exit draft's layer runs on the model's first layers, so its row needs tokens alone: the rows of all accepted drafts
are true.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeAlias, TypeVar

import numpy as np

from edgeinfer.formats.draft_file import TAP_EPS
from edgeinfer.plan.facts import TAPPED_ROWS
from edgeinfer.protocols import Row, TokenLike

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgeinfer.formats.draft_file import DraftFile
    from edgeinfer.types import Logits

    Floats: TypeAlias = npt.NDArray[np.float32]
    Slots: TypeAlias = npt.NDArray[np.int64]

__all__ = [
    "DraftInputs",
    "DraftLayer",
    "ExitDrafts",
    "FeatureDrafts",
    "FeatureInputs",
    "RankedRow",
    "StateTable",
    "TapLog",
    "TapTable",
    "TaughtDrafts",
]

_FEW_ROWS: Final = 8


class Rows(Protocol):
    """An array of an engine, [T, ...]."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: Any, /) -> Any: ...


Array = TypeVar("Array", bound=Rows)
Start = TypeVar("Start")
Seen = TypeVar("Seen", bound=Rows, contravariant=True)


class TaughtDrafts(Protocol[Seen]):
    """The taught drafts of one conversation.

    `saw` receives every committed token. `draft` is called for the newest token, then for each draft; `end` ends the
    round.
    """

    def draft(self, token: TokenLike, position: int) -> Row:
        """The row after `token` at `position`: that of the newest token, or of a draft of this round."""
        ...

    def end(self, n_kept: int) -> None:
        """End a round. The tokens of its first `n_kept` calls of `draft` were committed."""
        ...

    def saw(self, tokens: Sequence[int], tapped: Seen) -> None:
        """Committed tokens, after `end`, with the states [T, taps x hidden] that the model had there."""
        ...

    def rewind(self, length: int) -> None:
        """Forget positions >= `length`."""
        ...

    def start_at(self, length: int) -> None:
        """The conversation continues at `length`, after tokens that were never seen."""
        ...

    def close(self) -> None: ...


class DraftLayer(Protocol[Array]):
    """The draft's layer, norm and head on one conversation, after the model's first layers for an exit draft. Its keys
    are at the conversation's positions."""

    @property
    def first(self) -> int:
        """No key lies before this position."""
        ...

    @property
    def length(self) -> int:
        """The position of the next row."""
        ...

    @property
    def room(self) -> int:
        """Rows that the next `run` may add."""
        ...

    def feed(self, inputs: Array) -> None:
        """Add rows [T, hidden] whose outputs are not wanted. T is at most `room`, here and below."""
        ...

    def run(self, inputs: Array) -> tuple[Array, Array]:
        """Add rows [T, hidden]; of the last one, what its Row is made of and the state [hidden].

        NumPy's rows are made of the logits [n] of the ranked tokens. The state may be scaled: only its direction
        counts.
        """
        ...

    def rewind(self, length: int) -> None:
        """Forget positions >= `length`."""
        ...

    def start_at(self, position: int) -> None:
        """Forget everything; the next row is at `position`."""
        ...

    def close(self) -> None: ...


class DraftInputs(Protocol[Array]):
    """The projections in front of a feature draft's layer; `formats/draft_file.py` has the formulas."""

    def known(self, tapped: Array) -> Array:
        """[T, hidden] of tapped states [T, taps x hidden]."""
        ...

    def rows(self, tokens: Sequence[TokenLike], known: Array) -> Array:
        """The layer's inputs [T, hidden], for tokens and what is known of the positions before them.

        Raises UsageError for a token that the model lacks.
        """
        ...


class StateTable(Protocol[Array]):
    """TAPPED_ROWS rows of tapped states."""

    def write(self, at: Slots, tapped: Array) -> None:
        """Put tapped [T, taps x hidden] into the rows `at` [T]."""
        ...

    def read(self, at: Slots, held: npt.NDArray[np.bool_]) -> Array:
        """[T, taps x hidden] of the rows `at`; zeros where they are not `held`."""
        ...


class TapLog(Generic[Array]):
    """Tokens and tapped states of the newest positions, at most TAPPED_ROWS of them: [start, stop)."""

    def __init__(self, table: StateTable[Array], start: int = 0) -> None:
        self.start = self.stop = start
        self.table = table
        self._tokens: npt.NDArray[np.int32] = np.zeros(TAPPED_ROWS, np.int32)

    def add(self, tokens: Sequence[int], tapped: Array) -> None:
        """tapped: [T, width], with T <= TAPPED_ROWS."""
        at = np.arange(self.stop, self.stop + len(tokens)) % TAPPED_ROWS
        self._tokens[at] = tokens
        self.table.write(at, tapped)
        self.stop += len(tokens)
        self.start = max(self.start, self.stop - TAPPED_ROWS)

    def rewind(self, length: int) -> None:
        self.stop = length
        self.start = min(self.start, length)

    def tokens(self, start: int, stop: int) -> list[int]:
        found: list[int] = self._tokens[np.arange(start, stop) % TAPPED_ROWS].tolist()
        return found

    def tapped(self, start: int, stop: int) -> Array:
        """[stop - start, width]. A position that is no longer kept has zeros: the draft gets worse, the tokens do
        not."""
        positions = np.arange(start, stop)
        return self.table.read(positions % TAPPED_ROWS, positions >= self.start)


class FeatureDrafts(Generic[Array]):
    """See TaughtDrafts."""

    def __init__(
        self,
        inputs: DraftInputs[Array],
        layer: DraftLayer[Array],
        table: StateTable[Array],
        row: Callable[[Array], Row],
    ) -> None:
        """`row` makes a Row of what the layer's `run` gives."""
        self._inputs, self._layer, self._row = inputs, layer, row
        self._log = TapLog(table)
        self._state: Array | None = None  # of the layer at the newest draft of the round
        layer.start_at(1)  # position 0 has no states before it and is left out

    def draft(self, token: TokenLike, position: int) -> Row:
        if self._state is not None:
            inputs = self._inputs.rows([token], self._state[None])
        else:
            if not position:
                self._layer.start_at(0)  # for this round
            inputs = self._fed(position, [token])
        output, self._state = self._layer.run(inputs)
        return self._row(output)

    def end(self, n_kept: int) -> None:
        self._state = None
        if self._layer.first:
            true = self._log.stop + min(n_kept, 1)  # deeper drafts used states of the draft layer
            self._layer.rewind(min(self._layer.length, max(self._layer.first, true)))
        else:
            self._layer.start_at(1)

    def saw(self, tokens: Sequence[int], tapped: Array) -> None:
        if self._log.stop + len(tokens) - self._layer.length > TAPPED_ROWS:
            self._layer.feed(self._fed(self._log.stop))
        self._log.add(tokens, tapped)

    def rewind(self, length: int) -> None:
        self._state = None
        self._log.rewind(length)
        if length < self._layer.first:
            self._layer.start_at(max(1, length))
        else:
            self._layer.rewind(min(self._layer.length, max(1, length)))

    def start_at(self, length: int) -> None:
        self._state = None
        self._log = TapLog(self._log.table, length)
        self._layer.start_at(max(1, length))

    def close(self) -> None:
        self._layer.close()

    def _fed(self, stop: int, newest: Sequence[TokenLike] = ()) -> Array:
        """The layer's inputs of the tokens before `stop` and of `newest` there; all but the last piece is fed."""
        start, layer = self._layer.length, self._layer
        tokens = [*self._log.tokens(start, stop), *newest]
        known = self._inputs.known(self._log.tapped(start - 1, start - 1 + len(tokens)))
        return _fed_but_the_last(layer, self._inputs.rows(tokens, known))


class ExitDrafts(Generic[Array, Start]):
    """See TaughtDrafts. Each token is given as what its row starts from: the token itself where `layer` runs copies of
    the model's first layers, or the model's state after them. At most the newest TAPPED_ROWS are fed, when the next
    draft is wanted."""

    def __init__(
        self,
        layer: DraftLayer[Array],
        inputs: Callable[[Sequence[Start]], Array],
        row: Callable[[Array], Row],
    ) -> None:
        """`inputs` gives what `layer` starts from, [T, ...], and raises UsageError for a token that the model lacks.
        `row` makes a Row of what the layer's `run` gives."""
        self._layer, self._inputs, self._row = layer, inputs, row
        self._length = 0  # committed
        self._unfed: list[Start] = []  # of the newest committed tokens; the layer has not run all of them
        layer.start_at(0)

    def draft(self, token: Start, position: int) -> Row:
        del position
        n_fed = self._layer.length - (self._length - len(self._unfed))
        tokens = [*self._unfed[n_fed:], token]
        output, _ = self._layer.run(_fed_but_the_last(self._layer, self._inputs(tokens)))
        self._unfed = []
        return self._row(output)

    def end(self, n_kept: int) -> None:
        if self._layer.length > self._length + n_kept:
            self._layer.rewind(self._length + n_kept)

    def saw(self, tokens: Sequence[Start], tapped: Rows) -> None:
        del tapped
        self._unfed += tokens[max(0, self._layer.length - self._length) :]
        self._length += len(tokens)
        if len(self._unfed) > TAPPED_ROWS:
            self._unfed = self._unfed[-TAPPED_ROWS:]
            self._layer.start_at(self._length - TAPPED_ROWS)

    def rewind(self, length: int) -> None:
        self._length = length
        n_fed = self._layer.length
        if length >= n_fed:
            del self._unfed[length - n_fed :]
            return
        self._unfed = []
        if length < self._layer.first:
            self._layer.start_at(length)
        else:
            self._layer.rewind(length)

    def start_at(self, length: int) -> None:
        self._length, self._unfed = length, []
        self._layer.start_at(length)

    def close(self) -> None:
        self._layer.close()


def _fed_but_the_last(layer: DraftLayer[Array], inputs: Array) -> Array:
    """Feed all but the last piece of `inputs`, which is left for `run`."""
    while len(inputs) > layer.room:
        n = layer.room
        layer.feed(inputs[:n])
        inputs = inputs[n:]
    return inputs


class RankedRow:
    """See protocols.Row. Tokens outside the draft's vocabulary have a logit of -inf."""

    __slots__ = ("_logits", "_n_vocab", "_ranked")

    def __init__(self, logits: Logits, ranked: npt.NDArray[np.int32], n_vocab: int) -> None:
        """logits: [n], of the tokens `ranked` [n]."""
        self._logits, self._ranked, self._n_vocab = logits, ranked, n_vocab

    def argmax(self) -> int:
        return int(self._ranked[self._logits.argmax()])

    def numpy(self) -> Logits:
        row = np.full(self._n_vocab, -np.inf, np.float32)
        row[self._ranked] = self._logits
        return row


class FeatureInputs:
    """See DraftInputs."""

    def __init__(self, draft: DraftFile, embed: Callable[[Sequence[TokenLike]], Floats]) -> None:
        """`embed` gives the model's embeddings [T, hidden], and raises UsageError for a token that it lacks."""
        self._embed = embed
        self.hidden = draft.shape.hidden
        self.n_taps = len(draft.taps)
        self._eps = draft.norm_eps
        self._token_norm, self._feature_norm = draft.tensor("token_norm"), draft.tensor("feature_norm")
        self._join, self._taps = draft.tensor("join"), draft.tensor("taps")

    def known(self, tapped: Floats) -> Floats:
        states = tapped.reshape(len(tapped), self.n_taps, self.hidden)
        return _product(_rms(states, TAP_EPS).reshape(tapped.shape), self._taps)

    def rows(self, tokens: Sequence[TokenLike], known: Floats) -> Floats:
        token = _rms(self._embed(tokens), self._eps) * self._token_norm
        feature = _rms(known, self._eps) * self._feature_norm
        return _product(np.concatenate([token, feature], axis=1), self._join)


class TapTable:
    """See StateTable."""

    def __init__(self, width: int) -> None:
        self._rows: Floats = np.zeros((TAPPED_ROWS, width), np.float32)

    def write(self, at: Slots, tapped: Floats) -> None:
        self._rows[at] = tapped

    def read(self, at: Slots, held: npt.NDArray[np.bool_]) -> Floats:
        found: Floats = self._rows[at]
        found[~held] = 0.0
        return found


def _product(rows: Floats, matrix: Floats) -> Floats:
    """rows @ matrix.T, one row at a time: for a few rows together, BLAS would copy the whole matrix first."""
    if len(rows) > _FEW_ROWS:
        return rows @ matrix.T
    return np.array([matrix @ row for row in rows], np.float32).reshape(len(rows), len(matrix))


def _rms(x: Floats, eps: float) -> Floats:
    scaled: Floats = x / np.sqrt((x * x).mean(axis=-1, keepdims=True, dtype=np.float32) + np.float32(eps))
    return scaled

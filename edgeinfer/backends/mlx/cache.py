"""The conversation cache and its rounds on MLX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import metadata
from typing import TYPE_CHECKING

import mlx.core as mx

from edgeinfer.backends.blocks import is_held, positions_in
from edgeinfer.backends.engine_errors import maps_engine_errors
from edgeinfer.backends.mlx.forward import Forward, Part
from edgeinfer.backends.mlx.ring import STEP, RingLayer, Rings
from edgeinfer.backends.mlx.rows import Pending, as_array
from edgeinfer.backends.rounds import RoundGuard, check_ids
from edgeinfer.backends.taught import TaughtDrafts
from edgeinfer.errors import EngineError, RewindError, UsageError
from edgeinfer.protocols import Ask, Row, TokenLike, as_id
from edgeinfer.types import common_prefix
from edgeinfer.window import WindowPolicy

if TYPE_CHECKING:
    from edgeinfer.backends.mlx.model import MlxModel


@maps_engine_errors("MLX")
class MlxCache:
    """One ring per layer that keeps K/V, and the one `length` that they all follow."""

    chunk_rows = STEP

    def __init__(
        self,
        model: MlxModel,
        policy: WindowPolicy,
        rings: Rings,
        give_back: Callable[[WindowPolicy, Rings], None],
        drafts: TaughtDrafts[mx.array] | None = None,
    ) -> None:
        self.policy = policy
        self.model = model
        self.drafts = drafts
        self._rings: Rings | None = rings
        self._give_back = give_back
        self._length = 0
        self._evicted = range(0)  # positions whose slots may hold other positions by now
        self._round: MlxRound | None = None

    @property
    def length(self) -> int:
        return self._length

    @property
    def rings(self) -> Rings:
        if self._rings is None:
            raise EngineError("this cache is closed")
        return self._rings

    @property
    def layers(self) -> Sequence[RingLayer]:
        return self.rings.layers

    @property
    def n_bytes(self) -> int:
        return self._rings.n_bytes if self._rings is not None else 0

    def begin(self, max_rows: int) -> MlxRound:
        self._check_ready()
        room = self.policy.room(self._length)
        if not 1 <= max_rows <= room:
            raise UsageError(f"a round at length {self._length} may have 1 to {room} rows; received {max_rows}")
        self._evicted = self.policy.evicted(self._length)
        self._round = MlxRound(self, max_rows)
        return self._round

    def rewind(self, length: int) -> None:
        self._check_ready()
        if length > self._length or not self.policy.can_rewind(self._length, length):
            raise RewindError(f"cannot rewind from {self._length} to {length}: keys that it needs are evicted")
        if length < self._length and not all(layer.can_rewind(length) for layer in self.layers):
            raise RewindError(f"cannot rewind to {length}: its keys have left the model's own sliding window")
        self._length = length
        if length == 0:
            self._evicted = range(0)
        if self.drafts:
            self.drafts.rewind(length)

    @property
    def block_format(self) -> str:
        if any(layer.storage is not self.policy for layer in self.layers):  # a layer's own window loses positions
            return ""
        kinds = {f"{layer.ring.dtype} of {layer.ring.shape}" for layer in self.layers if layer.ring is not None}
        return f"MLX {metadata.version('mlx')}, {len(self.layers)} layers, {', '.join(sorted(kinds))}"

    def snapshot(self, spans: Sequence[range]) -> Sequence[bytes | None]:
        self._check_ready()
        return [self._snapshot(span) if is_held(span, self._length, self._evicted) else None for span in spans]

    def restore(self, blocks: Sequence[bytes]) -> None:
        self._check_ready()
        counts = positions_in(blocks, self.n_bytes // self.policy.slots, self)
        at = 0
        for n, block in zip(counts, blocks, strict=True):
            slots, start = [self.policy.slot(position) for position in range(at, at + n)], 0
            for layer in self.layers:
                n_bytes = n * layer.n_bytes // self.policy.slots
                layer.store(slots, block[start : start + n_bytes])
                start += n_bytes
            at += n
        self.rings.evaluate()
        self._length = at
        if self.drafts:
            self.drafts.start_at(at)

    def close(self) -> None:
        if self._rings is not None:
            self._give_back(self.policy, self._rings)
            if self.drafts:
                self.drafts.close()
        self._rings = None
        self._round = None

    def end_round(self, keep: int) -> None:
        """The only place where a round moves the length."""
        self._length += keep
        self._round = None

    def _snapshot(self, span: range) -> bytes:
        slots = [self.policy.slot(position) for position in span]
        return b"".join(layer.stored(slots) for layer in self.layers)

    def _check_ready(self) -> None:
        if self._rings is None:
            raise EngineError("this cache is closed")
        if self._round is not None:
            raise EngineError("a round is open on this cache; commit or roll it back first")


@maps_engine_errors("MLX")
class MlxRound:
    """See protocols.Round. Positions drafted by the early layers keep their hidden state on the device for `verify`."""

    def __init__(self, cache: MlxCache, max_rows: int) -> None:
        self._cache = cache
        self._guard = RoundGuard(max_rows)
        self._start = cache.length
        self.pending = Pending()
        self._tokens: list[TokenLike] = []  # drafted from
        self._hidden: list[mx.array] = []  # [1, 1, D] each, of these tokens after the early layers
        self._asked: Sequence[TokenLike] = ()
        self._tapped: mx.array | None = None

    def draft(self, token: TokenLike) -> Row:
        model, drafts = self._cache.model, self._cache.drafts
        if not model.drafts_with:
            raise EngineError("this model does not draft: it has no exit layer and no taught draft")
        at = len(self._tokens)
        self._guard.draft(at)
        check_ids([token], model.n_vocab)
        if drafts:
            found = drafts.draft(token, self._start + at)
            self._tokens.append(token)
            return found
        hidden = model.stages.front(as_array([token]), Forward([self.part(1, at)]).layers)
        [row] = model.rows(self.pending, hidden)
        self._tokens.append(token)
        self._hidden.append(hidden)
        return row

    def verify(self, tokens: Sequence[TokenLike], n_rows: int | None = None) -> Sequence[Row]:
        return self._cache.model.run([Ask(self, tokens, len(tokens) if n_rows is None else n_rows)])[0]

    def ask(self, tokens: Sequence[TokenLike], n_rows: int) -> None:
        """The one verify of this round begins. Raises EngineError where the round does not allow it."""
        self._guard.verify(len(tokens), n_rows)
        self._asked = tokens

    def part(self, n_rows: int, after: int = 0) -> Part:
        """`n_rows` of a forward, from the position `after` the start of the round on."""
        return Part(self._cache.rings, self._start + after, n_rows)

    def drafted(self, tokens: Sequence[TokenLike]) -> list[mx.array]:
        """The states at the exit layer, [1, 1, D] each, of the leading tokens that were drafted in this round."""
        n = 0
        for token, drafted in zip(tokens, self._tokens, strict=False):
            if token is not drafted and not (isinstance(token, int) and isinstance(drafted, int) and token == drafted):
                break  # a row is compared by identity, not by value
            n += 1
        return self._hidden[:n]

    def tap(self, states: mx.array) -> None:
        """The states [1, T, taps x D] of the tokens at the layers that a taught draft taps."""
        self._tapped = states[0]

    def has_run(self, n_rows: int) -> None:
        self._guard.n_verified = len(self._asked)
        if n_rows < len(self._asked):  # a chunk of a prompt: its rows may never be read
            self._cache.rings.evaluate()

    def commit(self, n: int) -> None:
        self._guard.commit(n)
        self._cache.end_round(n)
        if self._cache.drafts:
            self._feed(self._cache.drafts, n)

    def rollback(self) -> None:
        if self._guard.end():
            self._cache.end_round(0)
            if self._cache.drafts:
                self._cache.drafts.end(0)

    def _feed(self, drafts: TaughtDrafts[mx.array], n: int) -> None:
        """Give `drafts` the first `n` tokens of the verify. Their rows were read, so that their ids are on the host."""
        ids = [as_id(token) for token in self._asked[:n]]
        drafts.end(common_prefix([as_id(token) for token in self._tokens[:n]], ids))
        drafts.saw(ids, mx.zeros((n, 0)) if self._tapped is None else self._tapped[:n])

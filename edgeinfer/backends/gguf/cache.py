"""The window on llama.cpp: whole blocks are forgotten between rounds, keys keep their positions, nothing is shifted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

from edgeinfer.backends.blocks import positions_in
from edgeinfer.backends.engine_errors import maps_engine_errors
from edgeinfer.backends.gguf.batch import Batch
from edgeinfer.backends.gguf.llama import Context
from edgeinfer.backends.gguf.probe import library_versions
from edgeinfer.backends.gguf.state import StateLayout, joined, parsed
from edgeinfer.backends.rounds import HeldRow, RoundGuard
from edgeinfer.backends.taught import TaughtDrafts
from edgeinfer.errors import EngineError, RewindError, UsageError
from edgeinfer.protocols import Round, Row, TokenLike, as_id
from edgeinfer.types import Tokens
from edgeinfer.window import WindowPolicy

if TYPE_CHECKING:
    from edgeinfer.backends.gguf.llama import Floats
    from edgeinfer.types import Logits

__all__ = ["ContextRow", "Drafting", "GgufCache", "PlainRound"]


@maps_engine_errors("llama.cpp")
class ContextRow:
    """A row of the newest decode, still in llama.cpp's buffer."""

    __slots__ = ("_context", "_index")

    def __init__(self, context: Context, index: int) -> None:
        self._context = context
        self._index = index

    def argmax(self) -> int:
        return int(self._context.logits(self._index).argmax())

    def numpy(self) -> Logits:
        return self._context.logits(self._index)


class Piece(NamedTuple):
    """Tokens [start, stop) of an ask, in one decode; the rows of the last `n_wanted` are wanted."""

    start: int
    stop: int
    n_wanted: int


def pieces(n_tokens: int, n_rows: int, n_batch: int, n_outputs: int) -> Iterator[Piece]:
    """Decodes of at most `n_batch` tokens and `n_outputs` rows, for the last `n_rows` rows of `n_tokens`."""
    at = 0
    while at < n_tokens:
        n_unwanted = max(0, n_tokens - n_rows - at)
        size = min(n_batch, n_tokens - at, n_unwanted + n_outputs)
        yield Piece(at, at + size, max(0, size - n_unwanted))
        at += size


@maps_engine_errors("llama.cpp")
class GgufCache:
    """One conversation: a stream of a context, with `policy.slots` cells, and the number of positions that count.

    `close` is called once, with the cache, and frees the stream.
    """

    def __init__(
        self,
        context: Context,
        batch: Batch,
        policy: WindowPolicy,
        n_bytes: int,
        close: Callable[[], None],
        stream: int = 0,
    ) -> None:
        self.policy = policy
        self.stream = stream
        self.context = context
        self.n_bytes = n_bytes
        self._length = 0
        self._evicted_to = policy.sink  # positions from `sink` up to this one were removed from the memory
        self._uncounted = False  # the memory may hold positions >= length
        self._round: Round | None = None
        self._open_round: Callable[[int], Round] = lambda max_rows: PlainRound(self, max_rows)
        self._decode: Callable[[Batch], None] = context.decode
        self._drafts: TaughtDrafts[Floats] | None = None
        self._close: list[Callable[[], None]] = [close]
        self._closed = False
        self.chunk_rows = batch.capacity
        self._batch = batch
        context.remove(0, stream=stream)  # left by the previous conversation of the stream

    @property
    def length(self) -> int:
        return self._length

    @property
    def is_open(self) -> bool:
        return not self._closed and self.context.handle is not None

    def draft_by(self, open_round: Callable[[int], Round]) -> None:
        """Rounds are opened by `open_round(max_rows)` from now on."""
        self._open_round = open_round

    def watch(self, decode: Callable[[Batch], None], drafts: TaughtDrafts[Floats]) -> None:
        """Decode by `decode`, which calls the context's own; `drafts` follow rewinds and restores."""
        self._decode, self._drafts = decode, drafts

    def on_close(self, close: Callable[[], None]) -> None:
        """`close` is called with the cache, before what was given earlier."""
        self._close.append(close)

    def begin(self, max_rows: int) -> Round:
        self._be_ready("a round")
        room = self.policy.room(self._length)
        if not 1 <= max_rows <= room:
            raise UsageError(f"a round of {max_rows} rows at position {self._length}, which has room for {room}")
        self._evict()
        self._round = self._open_round(max_rows)
        return self._round

    def rewind(self, length: int) -> None:
        self._be_ready("rewind")
        if not self.policy.can_rewind(self._length, length):
            raise RewindError(f"cannot go back from position {self._length} to {length}: its keys have left the window")
        own = self.context.own_window
        if own and 0 < length < self._length and self.context.oldest(stream=self.stream) > max(0, length - own):
            raise RewindError(f"cannot go back to position {length}: its keys have left the model's own sliding window")
        self._length = length
        if length == 0:
            self._evicted_to = self.policy.sink
        self.context.remove(length, stream=self.stream)
        if self._drafts is not None:
            self._drafts.rewind(length)

    @cached_property  # versions are read from files, and the server asks for every prompt
    def block_format(self) -> str:
        kv_format = self.context.kv_format
        return ", ".join([*library_versions().values(), kv_format]) if kv_format else ""

    def snapshot(self, spans: Sequence[range]) -> Sequence[bytes | None]:
        self._be_ready("a snapshot")
        if not spans or not self._length:
            return [None] * len(spans)
        state = parsed(self.context.state(self.stream), self.stream)
        return [state.cut(span) for span in spans]

    def restore(self, blocks: Sequence[bytes]) -> None:
        self._be_ready("a restore")
        layout = self.context.state_layout = self.context.state_layout or self._layout_of_a_token()
        counts = positions_in(blocks, layout.position_bytes, self)
        try:
            self.context.load_state(joined(layout, blocks, counts, self.stream), self.stream)
        except BaseException:
            self.context.remove(0, stream=self.stream)
            raise
        self._keep(sum(counts))
        if self._drafts is not None:
            self._drafts.start_at(self._length)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            for close in reversed(self._close):  # contexts before the one whose memory they share
                close()

    def forward(self, tokens: Tokens, n_rows: int) -> Sequence[Row]:
        """All layers for `tokens` at `length`, the last `n_rows` rows. For the open round: `finish` counts them."""
        n_batch, n_outputs = self._batch.capacity, self.context.n_outputs
        if len(tokens) <= n_batch and n_rows <= n_outputs:  # the usual case
            self._forward(tokens, self._length, n_wanted=n_rows)
            return [ContextRow(self.context, index) for index in range(len(tokens) - n_rows, len(tokens))]
        held: list[Row] = []
        rows: list[Row] = []
        for piece in pieces(len(tokens), n_rows, n_batch, n_outputs):
            held += [HeldRow(row.numpy().copy()) for row in rows]
            n = piece.stop - piece.start
            self._forward(tokens[piece.start : piece.stop], self._length + piece.start, n_wanted=piece.n_wanted)
            rows = [ContextRow(self.context, index) for index in range(n - piece.n_wanted, n)]
        return [*held, *rows]

    def finish(self, n_kept: int, n_run: int) -> None:
        """End the round: the first `n_kept` of its `n_run` rows count."""
        self._round = None
        self._keep(n_kept)
        if n_kept < n_run and self.is_open:
            self.context.remove(self._length, stream=self.stream)

    def be_open(self) -> None:
        if not self.is_open:
            raise EngineError("the cache is closed")

    def _be_ready(self, what: str) -> None:
        self.be_open()
        if self._round is not None:
            raise EngineError(f"{what} while a round is open: commit or roll back first")
        if self._uncounted:  # the engine failed inside a round that was not rolled back
            self.context.remove(self._length, stream=self.stream)
            self._uncounted = False

    def _layout_of_a_token(self) -> StateLayout:
        """llama.cpp shows how it writes K and V only for a stream that holds some. So one token is run and then
        removed."""
        try:
            self._forward([0], self._length, n_wanted=0)
            return parsed(self.context.state(self.stream), self.stream).layout
        finally:
            self.context.remove(self._length, stream=self.stream)
            self._uncounted = False

    def _evict(self) -> None:
        evicted_to = self.policy.evicted(self._length).stop
        if evicted_to > self._evicted_to:
            self.context.remove(self._evicted_to, evicted_to, stream=self.stream)
            self._evicted_to = evicted_to

    def _forward(self, tokens: Tokens, position: int, *, n_wanted: int) -> None:
        self._batch.fill(tokens, position, n_wanted=n_wanted, stream=self.stream)
        self._uncounted = True
        self._decode(self._batch)

    def _keep(self, n: int) -> None:
        self._length += n
        self._uncounted = False


class Drafting(Protocol):
    """What lets the caches of one context draft. It is closed before the context."""

    @property
    def decode(self) -> Callable[[Batch], None]:
        """Takes the place of the context's own."""
        ...

    def attach(self, cache: GgufCache) -> None:
        """Let the rounds of `cache` draft."""
        ...

    def close(self) -> None: ...


@maps_engine_errors("llama.cpp")
class PlainRound:
    """A round without drafts by the model: it only verifies."""

    __slots__ = ("_guard", "_n_run", "cache")

    def __init__(self, cache: GgufCache, max_rows: int) -> None:
        self.cache = cache
        self._guard = RoundGuard(max_rows)
        self._n_run = 0

    def draft(self, token: TokenLike) -> Row:  # noqa: ARG002
        raise EngineError("this model does not draft: its file names no exit layer, or speculation is off")

    @property
    def is_plain(self) -> bool:
        """See streams.JoinedRound."""
        return True

    def verify(self, tokens: Sequence[TokenLike], n_rows: int | None = None) -> Sequence[Row]:
        ids, n_wanted = self.asked(tokens, n_rows)
        rows = self.cache.forward(ids, n_wanted)
        self.has_run(len(ids))
        return rows

    def asked(self, tokens: Sequence[TokenLike], n_rows: int | None) -> tuple[list[int], int]:
        """See streams.JoinedRound."""
        n_wanted = self._guard.verify(len(tokens), n_rows)
        ids = [as_id(token) for token in tokens]
        self.cache.be_open()
        self._n_run = len(ids)
        return ids, n_wanted

    def has_run(self, n: int) -> None:
        """See streams.JoinedRound."""
        self._guard.n_verified = n

    def commit(self, n: int) -> None:
        self._guard.commit(n)
        self.cache.finish(n, self._n_run)

    def rollback(self) -> None:
        if self._guard.end():
            self.cache.finish(0, self._n_run)

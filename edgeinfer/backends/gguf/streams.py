"""The conversations of one context, each in a stream, and the decodes that run them together.

llama.cpp computes sequences in one forward where their ids follow each other and they have equally many rows. So asks
are grouped by their number of rows, in the order of their ids. Where a stream between theirs is free, a conversation
moves into it; where one rests there, it moves out if a stream is free elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol, TypeGuard

from edgeinfer.backends.engine_errors import maps_engine_errors
from edgeinfer.backends.gguf.batch import Batch
from edgeinfer.backends.gguf.cache import ContextRow, Drafting, GgufCache, PlainRound, pieces
from edgeinfer.backends.gguf.draft.round import TaughtRound
from edgeinfer.backends.gguf.exit.round import ExitRound
from edgeinfer.backends.gguf.llama import Context, ContextOptions, LlamaModel
from edgeinfer.backends.rounds import HeldRow
from edgeinfer.errors import EngineError
from edgeinfer.protocols import Ask, Round, Row, TokenLike
from edgeinfer.window import WindowPolicy

__all__ = ["JoinedRound", "Part", "Streams", "decodes"]


class JoinedRound(Protocol):
    """A round whose rows can be run in a decode with those of others."""

    cache: GgufCache

    @property
    def is_plain(self) -> bool:
        """Whether its drafts have left nothing in the model's own memory."""
        ...

    def asked(self, tokens: Sequence[TokenLike], n_rows: int | None) -> tuple[list[int], int]:
        """The ids to run, and how many rows are wanted. From now on a rollback removes what the engine may have run."""
        ...

    def has_run(self, n: int) -> None:
        """The engine has run the `n` ids that were asked."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens of one ask in one decode: `ids` at `position` of `stream`. The rows of the last `n_wanted` are wanted."""

    ask: int
    stream: int
    ids: Sequence[int]
    position: int
    n_wanted: int

    def split(self, n_batch: int, n_outputs: int) -> Iterator[Part]:
        for start, stop, n_wanted in pieces(len(self.ids), self.n_wanted, n_batch, n_outputs):
            yield Part(self.ask, self.stream, self.ids[start:stop], self.position + start, n_wanted)


def decodes(asked: Sequence[Part], *, n_batch: int, n_outputs: int, n_together: int) -> Iterator[Sequence[Part]]:
    """The parts of each decode. Parts of at most `n_together` rows run together; longer ones alone, and first.

    `n_together` also bounds the rows of a decode of several parts: more would be rounded differently from one.
    """
    most = min(n_together, n_outputs)
    for part in asked:
        if len(part.ids) > most:
            for piece in part.split(n_batch, n_outputs):
                yield [piece]
    short = sorted((part for part in asked if len(part.ids) <= most), key=lambda part: (len(part.ids), part.stream))
    for n_rows, alike in groupby(short, key=lambda part: len(part.ids)):
        parts = list(alike)
        at_once = max(1, most // n_rows)
        for at in range(0, len(parts), at_once):
            yield parts[at : at + at_once]


@maps_engine_errors("llama.cpp")
class Streams:
    """A context of `options.n_streams` streams. One of a single stream is closed with its cache.

    `n_together`: the most rows that a decode rounds like single ones.
    """

    def __init__(self, model: LlamaModel, options: ContextOptions, *, n_together: int | None) -> None:
        self.options = options
        self.context = Context(model, options)
        self._batch = Batch(options.n_batch)
        self._n_together = n_together or options.n_batch
        self._open: dict[int, GgufCache] = {}  # by stream
        self._drafting: Drafting | None = None
        self._decode: Callable[[Batch], None] = self.context.decode

    def draft_by(self, drafting: Drafting) -> None:
        """New caches draft by `drafting`, which is closed with the context."""
        self._drafting, self._decode = drafting, drafting.decode

    def new_cache(self, policy: WindowPolicy, n_bytes: int) -> GgufCache:
        """Takes the lowest stream that is free. Raises EngineError when there is none."""
        if not self._free:
            raise EngineError("every conversation that was planned is open", hint="close one, or plan more of them")
        stream = self._free[0]
        cache = GgufCache(self.context, self._batch, policy, n_bytes, lambda: self._left(cache.stream), stream)
        self._open[stream] = cache
        if self._drafting is not None:
            self._drafting.attach(cache)
        return cache

    def _left(self, stream: int) -> None:
        del self._open[stream]
        if self.options.n_streams == 1:
            self.close()

    @property
    def _free(self) -> list[int]:
        return [stream for stream in range(self.options.n_streams) if stream not in self._open]

    def run(self, asks: Sequence[Ask]) -> list[Sequence[Row]]:
        """See Model.run. What cannot be run together, as rows after early layers, is run first and in turn."""
        rows: list[Sequence[Row]] = [[] for _ in asks]
        together: list[tuple[int, JoinedRound]] = []
        for index, ask in enumerate(asks):
            if self._joins(ask.round):
                together.append((index, ask.round))
            else:
                rows[index] = [held(row) for row in ask.round.verify(ask.tokens, ask.n_rows)]
        if together:
            found = self._run_together([step for _, step in together], [asks[index] for index, _ in together])
            for (index, _), own in zip(together, found, strict=True):
                rows[index] = own
        return rows

    def _joins(self, step: Round) -> TypeGuard[JoinedRound]:
        return (
            isinstance(step, PlainRound | TaughtRound | ExitRound)
            and step.is_plain
            and step.cache.context is self.context
        )

    def _run_together(self, rounds: Sequence[JoinedRound], asks: Sequence[Ask]) -> list[Sequence[Row]]:
        asked_of = [step.asked(ask.tokens, ask.n_rows) for step, ask in zip(rounds, asks, strict=True)]
        self._close_gaps([step.cache for step in rounds])
        asked: list[Part] = []
        for index, (step, (ids, n_wanted)) in enumerate(zip(rounds, asked_of, strict=True)):
            asked.append(Part(index, step.cache.stream, ids, step.cache.length, n_wanted))
        rows: list[list[Row]] = [[] for _ in asks]
        newest: list[Part] = []
        for parts in decodes(
            asked, n_batch=self._batch.capacity, n_outputs=self.context.n_outputs, n_together=self._n_together
        ):
            for part in newest:  # the next decode overwrites them
                rows[part.ask] = [held(row) for row in rows[part.ask]]
            self._run_parts(parts, rows)
            newest = list(parts)
        for step, part in zip(rounds, asked, strict=True):
            step.has_run(len(part.ids))
        return list(rows)

    def _close_gaps(self, caches: Sequence[GgufCache]) -> None:
        """Make the streams of `caches` follow each other, as far as free streams allow.

        Conversations that rest between them move out, then the last of `caches` moves in. Each move costs one copy of
        K and V, and saves a forward in every step until other conversations run.
        """
        running = {cache.stream for cache in caches}
        between = range(min(running) + 1, max(running))
        for resting in [stream for stream in between if stream in self._open and stream not in running]:
            if outside := [stream for stream in self._free if stream not in between]:
                self._move(resting, outside[0])
        while gaps := [stream for stream in self._free if min(running) < stream < max(running)]:
            self._move(max(running), gaps[0])
            running = {cache.stream for cache in caches}

    def _move(self, stream: int, target: int) -> None:
        moved = self._open.pop(stream)
        self.context.move(stream, target)
        moved.stream = target
        self._open[target] = moved

    def _run_parts(self, parts: Sequence[Part], rows: Sequence[list[Row]]) -> None:
        end = 0
        for part in parts:
            place = self._batch.add if end else self._batch.fill
            place(part.ids, part.position, n_wanted=part.n_wanted, stream=part.stream)
            end += len(part.ids)
            rows[part.ask] += [ContextRow(self.context, row) for row in range(end - part.n_wanted, end)]
        self._decode(self._batch)

    def close(self) -> None:
        if self._drafting is not None:
            self._drafting.close()
        self.context.close()


def held(row: Row) -> Row:
    return HeldRow(row.numpy().copy())

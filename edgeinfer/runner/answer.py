"""One answer: its options, the stream that writes it, and the finished value."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from typing import Protocol, TypedDict

from edgeinfer.chat.encoding import CONTEXT_CHARS, MARK_LIKE, encode_continuation
from edgeinfer.chat.prompt import NO_FORM, AnswerForm
from edgeinfer.chat.stop import StopStrings
from edgeinfer.chat.thinking import Segment, ThinkingSplitter
from edgeinfer.chat.trace_formats import TraceFormat
from edgeinfer.chat.utf8 import Utf8Stream
from edgeinfer.decode.stats import AnswerStats, ArmStats, FinishReason
from edgeinfer.errors import UsageError
from edgeinfer.protocols import Tokenizer
from edgeinfer.types import Prompt, Sampling, compact


class AnswerDecoder(Protocol):
    """What an answer needs of `decode.loop.Decoder`."""

    stats: AnswerStats

    def interrupt(self) -> None: ...
    def stream(
        self, prompt: Prompt, sampling: Sampling, *, max_tokens: int, stop_tokens: frozenset[int], first_index: int = 0
    ) -> Iterator[int]: ...


class AnswerOptions(TypedDict, total=False):
    """Keyword arguments of every call that writes an answer. `AnswerSettings` has the defaults."""

    sampling: Sampling | None
    max_tokens: int
    stop: Sequence[str]
    thinking: bool
    think_budget: int | None


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """`AnswerOptions` with every value filled in."""

    sampling: Sampling | None = None  # None: as the model's authors recommend
    max_tokens: int = 2048  # a small model can repeat itself without end
    stop: Sequence[str] = ()  # the answer ends before any of these strings
    thinking: bool = True  # False: turn reasoning off, and end it if the model begins it anyway
    think_budget: int | None = None  # tokens of reasoning; None: no limit

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            raise UsageError("`stop` must be a list of strings; received one string", hint=f"stop=[{self.stop!r}]")
        if self.max_tokens < 1:
            raise UsageError(f"max_tokens must be at least 1; received {self.max_tokens}")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said. `tokens` are all of its tokens, reasoning included, without the stop token."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    stats: AnswerStats
    thinking: str = ""


class AnswerStream:
    """An answer while it is written. Iterate for its text, piece by piece; whole characters only.

    `segments` gives the reasoning as well. `stop` may be called from a signal handler or another thread. A reader may
    leave the loop at any time. Reading raises EngineError when the engine fails.
    """

    def __init__(self, writer: Writer, segments: Generator[Segment, None, None]) -> None:
        self._writer = writer
        self._segments = segments

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        for segment in self._segments:
            if not segment.thinking:
                return segment.text
        raise StopIteration

    def segments(self) -> Iterator[Segment]:
        """The rest of the answer, reasoning included."""
        return self._segments

    def finish(self) -> Answer:
        """Read to the end."""
        for _ in self._segments:
            pass
        return self.answer

    def stop(self) -> None:
        """End the answer after the current token, or inside its prompt."""
        self._writer.stop()

    def close(self) -> None:
        """End the answer now. Safe to call twice. Raises UsageError while another thread reads it."""
        try:
            self._segments.close()
        except ValueError as error:  # the generator is running
            raise UsageError("another answer is being written", hint="read one answer at a time") from error

    @property
    def stats(self) -> AnswerStats:
        """Counts so far."""
        return self._writer.stats

    @property
    def answer(self) -> Answer:
        """The answer so far; `finish_reason` is "" until the end."""
        return self._writer.answer


class Writer:
    """Turns the decoder's tokens into text: UTF-8, reasoning, stop strings, the reasoning budget.

    `tokens` and `text` are what the model has said so far, tags and reasoning included.
    """

    def __init__(
        self,
        decoder: AnswerDecoder,
        tokenizer: Tokenizer,
        *,
        settings: AnswerSettings,
        form: AnswerForm = NO_FORM,
    ) -> None:
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._settings = settings
        self._mark_text = silent_marks(tokenizer, form.traces)
        self._utf8 = Utf8Stream()
        self._splitter = ThinkingSplitter(form.traces, inside=form.inside)
        self._stop = StopStrings((*settings.stop, *form.stops))
        self._stop_tokens = tokenizer.stop_tokens | form.stop_tokens
        self._think_budget = settings.think_budget if settings.thinking else 0
        self._n_thought = 0
        self._budget_used = False
        self._n_free = 0  # tokens that close the reasoning before the answer, and do not count towards its length
        self._stats = AnswerStats()
        self._earlier: AnswerStats | None = None  # of the part before the budget closed the trace
        self._stopped = False
        self.tokens: list[int] = []
        self.text = ""
        self._shown: list[Segment] = []

    def stop(self) -> None:
        """End the answer; the flag is checked after every token, the decoder's before every step."""
        self._stopped = True
        self._decoder.interrupt()

    @property
    def answer(self) -> Answer:
        return Answer(
            text="".join(segment.text for segment in self._shown if not segment.thinking),
            tokens=tuple(self.tokens),
            finish_reason=self.stats.finish,
            stats=self.stats,
            thinking="".join(segment.text for segment in self._shown if segment.thinking),
        )

    @property
    def stats(self) -> AnswerStats:
        if self._earlier is None or self._earlier is self._stats:
            return self._stats
        return joined(self._earlier, self._stats)

    def segments(self, prompt: Prompt, sampling: Sampling) -> Generator[Segment, None, None]:
        """Text as it becomes certain: it is held back while it may begin a stop string."""
        with closing(self._split_segments(prompt, sampling)) as segments:
            for segment in segments:
                certain = segment if segment.thinking else self._before_stop(segment)
                if certain.text:
                    self._shown.append(certain)
                    yield certain
                if self._stop.stopped:
                    break
        if self._stop.stopped:
            self._stats.finish = "stop"  # the decoder only knows that reading stopped
        if rest := self._stop.finish():
            self._shown.append(Segment(rest, thinking=False))
            yield self._shown[-1]

    def _before_stop(self, segment: Segment) -> Segment:
        text = self._stop.feed(segment.text)
        return segment if text == segment.text else Segment(text, thinking=False)

    def _split_segments(self, prompt: Prompt, sampling: Sampling) -> Generator[Segment, None, None]:
        began_inside = self._over_budget()
        if not began_inside:
            yield from self._run(prompt, sampling)
            self._earlier = self._stats
        trace = self._splitter.inside
        if trace and self._over_budget() and not self._stopped:
            self._budget_used = True
            self._stats.finish = "length"
            after = self.text[-CONTEXT_CHARS:] or trace.opening
            self._take_all(encode_continuation(self._tokenizer, trace.ending, after=after, special=True))
            yield from self._splitter.feed(trace.ending)
            self._n_free = len(self.tokens) if began_inside else 0
            if len(self.tokens) - self._n_free < self._settings.max_tokens:
                yield from self._run(replace(prompt, tokens=compact([*prompt.tokens, *self.tokens])), sampling)
        text = self._utf8.finish(cut=self._stats.finish != "stop")
        self.text += text
        yield from self._splitter.feed(text)
        yield from self._splitter.finish()

    def _run(self, prompt: Prompt, sampling: Sampling) -> Iterator[Segment]:
        if self._stopped:
            self._stats.finish = "canceled"
            return
        n_before = len(self.tokens)
        stream = self._decoder.stream(
            prompt,
            sampling,
            max_tokens=self._settings.max_tokens - n_before + self._n_free,
            stop_tokens=self._stop_tokens,
            first_index=n_before,
        )
        self._stats = self._decoder.stats
        with closing(stream):  # type: ignore[type-var]  # a generator, which a protocol cannot say without its other types
            for token in stream:
                if token in self._stop_tokens:
                    continue  # the decoder ends, and says why
                yield from self._take(token)
                if self._over_budget() or self._stopped:
                    return

    def _take(self, token: int) -> Iterator[Segment]:
        self.tokens.append(token)
        if self._splitter.inside:
            self._n_thought += 1
        data = self._mark_text.get(token) or self._tokenizer.piece(token)
        text = self._utf8.feed(data)
        self.text += text
        return self._splitter.feed(text)

    def _take_all(self, tokens: list[int]) -> None:
        for token in tokens:
            self.tokens.append(token)
            self.text += self._utf8.feed(self._mark_text.get(token) or self._tokenizer.piece(token))

    def _over_budget(self) -> bool:
        budget = self._think_budget
        return (
            bool(self._splitter.inside) and budget is not None and self._n_thought >= budget and not self._budget_used
        )


def silent_marks(tokenizer: Tokenizer, traces: Sequence[TraceFormat]) -> Mapping[int, bytes]:
    """Control tokens in the marks of traces whose pieces are empty, with the text that stands for each."""
    texts: dict[int, bytes] = {}
    for trace in traces:
        for mark in MARK_LIKE.findall(trace.marks):
            tokens = tokenizer.encode(mark, special=True)
            if len(tokens) == 1 and not tokenizer.piece(tokens[0]):
                texts[tokens[0]] = mark.encode()
    return texts


def joined(first: AnswerStats, second: AnswerStats) -> AnswerStats:
    """The stats of an answer in two parts: counts are added, and what describes the prompt is taken from the first
    part."""
    arms = {name: replace(arm) for name, arm in first.arms.items()}
    for name, arm in second.arms.items():
        into = arms.setdefault(name, ArmStats())
        for field in fields(ArmStats):
            setattr(into, field.name, getattr(into, field.name) + getattr(arm, field.name))
    return replace(
        second,
        prompt=first.prompt,
        reused=first.reused,
        prefilled=first.prefilled + second.prefilled,
        reprefilled=first.reprefilled + second.reprefilled,
        evicted=first.evicted + second.evicted,
        reanchored=first.reanchored + second.reanchored,
        emitted=first.emitted + second.emitted,
        prefill_s=first.prefill_s + second.prefill_s,
        first_token_s=first.first_token_s,
        decode_s=first.decode_s + second.decode_s,
        plain_s_per_token=second.plain_s_per_token or first.plain_s_per_token,
        arms=arms,
    )

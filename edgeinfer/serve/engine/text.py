"""Turns the tokens of an answer into text as they arrive: characters, reasoning, tool calls, stop strings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

from edgeinfer.chat.encoding import CONTEXT_CHARS, encode_continuation
from edgeinfer.chat.stop import StopStrings
from edgeinfer.chat.thinking import Segment, ThinkingSplitter
from edgeinfer.chat.trace_formats import TraceFormat
from edgeinfer.chat.utf8 import Utf8Stream
from edgeinfer.protocols import Tokenizer
from edgeinfer.runner.answer import silent_marks
from edgeinfer.serve.tools.reading import ToolReader
from edgeinfer.types import ToolCall

Part: TypeAlias = Segment | ToolCall


class AnswerText:
    """Takes tokens, gives parts. `stopped` says that a stop string or the only call came: nothing follows it.

    `tokens` are all tokens of the answer, `n_thought` of them reasoning; the stop token is left out.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stops: Sequence[str] = (),
        traces: Sequence[TraceFormat] = (),
        inside: TraceFormat | None = None,
        think_budget: int | None = None,
        calls: ToolReader | None = None,
        most_calls: int | None = None,
    ) -> None:
        """`traces` are the ways in which the model may mark its reasoning; the prompt has begun the one in `inside`.

        `think_budget` is the tokens of reasoning after which it is to be ended, `most_calls` the calls of tools after
        which the answer is; None: no limit.
        """
        self.tokens: list[int] = []
        self._tokenizer = tokenizer
        self._mark_text = {**silent_marks(tokenizer, traces), **(calls.silent_marks(tokenizer) if calls else {})}
        self._calls = calls
        self._calls_left = most_calls
        self._utf8 = Utf8Stream()
        self._splitter = ThinkingSplitter(traces, inside=inside)
        self._stops = StopStrings(stops)
        self._think_budget = think_budget
        self.n_thought = 0
        self._recent = ""

    @property
    def stopped(self) -> bool:
        return self._stops.stopped or self._calls_left == 0

    @property
    def stop_string(self) -> str:
        """The stop string that came; "" when none did."""
        return self._stops.found

    @property
    def over_budget(self) -> bool:
        """Whether the reasoning has had its tokens: `end_reasoning` is due."""
        return bool(self._splitter.inside) and self._think_budget is not None and self.n_thought >= self._think_budget

    def feed(self, token: int) -> list[Part]:
        self.tokens.append(token)
        self.n_thought += bool(self._splitter.inside)
        return list(self._until_stop(self._splitter.feed(self._text_of([token]))))

    def end_reasoning(self) -> tuple[list[int], list[Part]]:
        """The tokens that end the trace, as the model would have written them, and what they make certain."""
        trace = self._splitter.inside
        self._think_budget = None
        if trace is None:
            return [], []
        tokens = encode_continuation(self._tokenizer, trace.ending, after=self._recent or trace.opening, special=True)
        self.tokens += tokens
        self._text_of(tokens)
        return tokens, list(self._until_stop(self._splitter.feed(trace.ending)))

    def finish(self) -> list[Part]:
        """What was held back. Call it once, after the last token."""
        if self.stopped:
            return []
        text = self._utf8.finish()
        parts = [*self._until_stop(self._splitter.feed(text)), *self._until_stop(self._splitter.finish())]
        if self._calls is not None:
            parts += self._after_stops(self._calls.finish())
        rest = self._stops.finish()
        return [*parts, Segment(rest, thinking=False)] if rest else parts

    def _text_of(self, tokens: Iterable[int]) -> str:
        data = b"".join(self._mark_text.get(token) or self._tokenizer.piece(token) for token in tokens)
        text = self._utf8.feed(data)
        self._recent = (self._recent + text)[-CONTEXT_CHARS:]
        return text

    def _until_stop(self, segments: Iterable[Segment]) -> Iterator[Part]:
        for segment in segments:
            if segment.thinking:
                yield segment
            elif self._calls is None:
                yield from self._after_stops([segment.text])
            else:
                yield from self._after_stops(self._calls.feed(segment.text))

    def _after_stops(self, read: Iterable[str | ToolCall]) -> Iterator[Part]:
        for one in read:
            if self.stopped:
                return
            if isinstance(one, ToolCall):
                self._calls_left = None if self._calls_left is None else self._calls_left - 1
                yield one
            elif text := self._stops.feed(one):
                yield Segment(text, thinking=False)

"""From the tokens of an answer to its text, as they come: characters, reasoning, stop strings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from edgeinfer.chat.encoding import CONTEXT_CHARS, encode_continuation
from edgeinfer.chat.stop import StopStrings
from edgeinfer.chat.thinking import Segment, ThinkingSplitter
from edgeinfer.chat.trace_formats import TraceFormat
from edgeinfer.chat.utf8 import Utf8Stream
from edgeinfer.protocols import Tokenizer
from edgeinfer.runner.answer import silent_marks


class AnswerText:
    """Takes tokens, gives segments. `stopped` says that a stop string came: nothing follows it.

    `tokens` are all tokens of the answer, the reasoning's included, without the stop token.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stops: Sequence[str] = (),
        traces: Sequence[TraceFormat] = (),
        inside: TraceFormat | None = None,
        think_budget: int | None = None,
    ) -> None:
        """`traces` are the ways in which the model may mark its reasoning; the prompt has begun the one in `inside`.

        `think_budget` is the tokens of reasoning after which it is to be ended; None: no limit.
        """
        self.tokens: list[int] = []
        self._tokenizer = tokenizer
        self._mark_text = silent_marks(tokenizer, traces)
        self._utf8 = Utf8Stream()
        self._splitter = ThinkingSplitter(traces, inside=inside)
        self._stops = StopStrings(stops)
        self._think_budget = think_budget
        self._n_thought = 0
        self._recent = ""

    @property
    def stopped(self) -> bool:
        return self._stops.stopped

    @property
    def over_budget(self) -> bool:
        """Whether the reasoning has had its tokens: `end_reasoning` is due."""
        return bool(self._splitter.inside) and self._think_budget is not None and self._n_thought >= self._think_budget

    def feed(self, token: int) -> list[Segment]:
        self.tokens.append(token)
        self._n_thought += bool(self._splitter.inside)
        return list(self._until_stop(self._splitter.feed(self._text_of([token]))))

    def end_reasoning(self) -> tuple[list[int], list[Segment]]:
        """The tokens that end the trace, as the model would have written them, and what they make certain."""
        trace = self._splitter.inside
        self._think_budget = None
        if trace is None:
            return [], []
        tokens = encode_continuation(self._tokenizer, trace.ending, after=self._recent or trace.opening, special=True)
        self.tokens += tokens
        self._text_of(tokens)
        return tokens, list(self._until_stop(self._splitter.feed(trace.ending)))

    def finish(self) -> list[Segment]:
        """What was held back. Call it once, after the last token."""
        if self.stopped:
            return []
        text = self._utf8.finish()
        segments = [*self._until_stop(self._splitter.feed(text)), *self._until_stop(self._splitter.finish())]
        rest = self._stops.finish()
        return [*segments, Segment(rest, thinking=False)] if rest else segments

    def _text_of(self, tokens: Iterable[int]) -> str:
        data = b"".join(self._mark_text.get(token) or self._tokenizer.piece(token) for token in tokens)
        text = self._utf8.feed(data)
        self._recent = (self._recent + text)[-CONTEXT_CHARS:]
        return text

    def _until_stop(self, segments: Iterable[Segment]) -> Iterator[Segment]:
        for segment in segments:
            if segment.thinking:
                yield segment
            elif text := self._stops.feed(segment.text):
                yield Segment(text, thinking=False)

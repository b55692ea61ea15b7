"""From the decoder's tokens to the text of one answer: UTF-8, the thinking trace, stop strings, the budget."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, fields, replace
from typing import Protocol

from edgeinfer.chat.stop import StopStrings
from edgeinfer.chat.thinking import Segment, ThinkingSplitter
from edgeinfer.chat.utf8 import Utf8Stream
from edgeinfer.decode.stats import AnswerStats, ArmStats
from edgeinfer.protocols import Tokenizer
from edgeinfer.types import Prompt, Sampling, compact


class Decodes(Protocol):
    """What an answer needs of `decode.loop.Decoder`."""

    stats: AnswerStats

    def stream(
        self, prompt: Prompt, sampling: Sampling, *, max_tokens: int, stop_tokens: frozenset[int], first_index: int = 0
    ) -> Iterator[int]: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Where an answer ends. `think_budget` is the tokens that a trace may take; None: as many as it likes.

    `stopped` is asked after every token, also while a trace runs or text is held back.
    """

    max_tokens: int
    stop: tuple[str, ...] = ()
    think_budget: int | None = None
    stopped: Callable[[], bool] = lambda: False


class Answer:
    """One answer while it streams. `tokens` and `text` are what the model has said so far, tags and trace included."""

    def __init__(
        self,
        decoder: Decodes,
        tokenizer: Tokenizer,
        *,
        limits: Limits,
        tags: tuple[str, str] | None,
        inside: bool,
    ) -> None:
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._limits = limits
        self._tags = tags
        self._tag_text = tag_tokens(tokenizer, tags)
        self._utf8 = Utf8Stream()
        self._splitter = ThinkingSplitter(tags, inside=inside) if tags else None
        self._stop = StopStrings(limits.stop)
        self._n_thought = 0
        self._earlier: AnswerStats | None = None  # of the part before the budget closed the trace
        self.tokens: list[int] = []
        self.text = ""

    @property
    def stats(self) -> AnswerStats:
        now = self._decoder.stats
        return now if self._earlier is None or self._earlier is now else joined(self._earlier, now)

    def stream(
        self, prompt: Prompt, sampling: Sampling, on_thinking: Callable[[str], None]
    ) -> Generator[str, None, None]:
        """Text of the answer as it becomes certain; the trace goes to `on_thinking`."""
        with closing(self._segments(prompt, sampling)) as segments:
            for segment in segments:
                if segment.thinking:
                    on_thinking(segment.text)
                    continue
                text = self._stop.feed(segment.text)
                if text:
                    yield text
                if self._stop.stopped:
                    break
        if self._stop.stopped:
            self._decoder.stats.finish = "stop"  # the decoder only knows that nobody read on
        rest = self._stop.finish()
        if rest:
            yield rest

    def _segments(self, prompt: Prompt, sampling: Sampling) -> Generator[Segment, None, None]:
        yield from self._run(prompt, sampling)
        if self._over_budget() and not self._limits.stopped():
            assert self._tags is not None
            closing_text = f"\n{self._tags[1]}\n\n"
            self._earlier = self._decoder.stats
            self._take_all(self._tokenizer.encode(closing_text, special=True))
            yield from self._split(closing_text)
            self._decoder.stats.finish = "length"
            if len(self.tokens) < self._limits.max_tokens:
                yield from self._run(replace(prompt, tokens=compact([*prompt.tokens, *self.tokens])), sampling)
        text = self._utf8.finish()
        self.text += text
        yield from self._split(text)
        if self._splitter:
            yield from self._splitter.finish()

    def _run(self, prompt: Prompt, sampling: Sampling) -> Iterator[Segment]:
        n_before = len(self.tokens)
        stream = self._decoder.stream(
            prompt,
            sampling,
            max_tokens=self._limits.max_tokens - n_before,
            stop_tokens=self._tokenizer.stop_tokens,
            first_index=n_before,
        )
        with closing(stream):  # type: ignore[type-var]  # a generator, which a protocol cannot say without its other types
            for token in stream:
                if token in self._tokenizer.stop_tokens:
                    continue  # the decoder ends by itself, and says why
                yield from self._take(token)
                if self._over_budget() or self._limits.stopped():
                    return

    def _take(self, token: int) -> Iterator[Segment]:
        self.tokens.append(token)
        if self._splitter and self._splitter.inside:
            self._n_thought += 1
        data = self._tag_text.get(token) or self._tokenizer.piece(token)
        text = self._utf8.feed(data)
        self.text += text
        yield from self._split(text)

    def _take_all(self, tokens: list[int]) -> None:
        for token in tokens:
            self.tokens.append(token)
            self.text += self._utf8.feed(self._tag_text.get(token) or self._tokenizer.piece(token))

    def _split(self, text: str) -> Iterator[Segment]:
        if self._splitter:
            yield from self._splitter.feed(text)
        elif text:
            yield Segment(text, thinking=False)

    def _over_budget(self) -> bool:
        budget = self._limits.think_budget
        return (
            self._splitter is not None
            and self._splitter.inside
            and self._earlier is None
            and budget is not None
            and self._n_thought >= budget
        )


def tag_tokens(tokenizer: Tokenizer, tags: tuple[str, str] | None) -> Mapping[int, bytes]:
    """The control tokens in the tags, whose pieces are empty, with the text to read in their place.

    A tag may be one (`</think>`), or begin with one (`<|channel>thought`).
    """
    texts: dict[int, bytes] = {}
    for tag in tags or ():
        tokens = tokenizer.encode(tag, special=True)
        silent = [token for token in tokens if not tokenizer.piece(token)]
        rest = b"".join(tokenizer.piece(token) for token in tokens)
        if len(silent) == 1 and tokens[0] == silent[0]:
            texts[silent[0]] = tag.encode().removesuffix(rest)
    return texts


def joined(first: AnswerStats, second: AnswerStats) -> AnswerStats:
    """The stats of an answer in two parts: counts add up, what describes the prompt is the first's."""
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

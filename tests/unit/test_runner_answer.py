"""One answer: text from tokens, reasoning and its budget, stop strings, and stats of an answer in two parts."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence

import pytest

from edgeinfer.chat.prompt import AnswerForm
from edgeinfer.chat.trace_formats import THINK, TraceFormat, may_use
from edgeinfer.decode.stats import AnswerStats, ArmStats
from edgeinfer.errors import UsageError
from edgeinfer.runner.answer import Answer, AnswerOptions, AnswerSettings, AnswerStream, Writer, joined
from edgeinfer.types import GREEDY, Prompt, Sampling

STOP, OPEN, CLOSE = 0, 1, 2
TAGS = ("<think>", "</think>")
TRACES = (THINK,)
DEFAULTS = AnswerSettings()


class Bytes:
    """One token per byte (ids from 256); the tags are control tokens without text."""

    n_vocab = 512
    stop_tokens = frozenset({STOP})
    chat_template = None
    bos_text = eos_text = ""
    control_texts = frozenset(TAGS)

    def encode(self, text: str, *, special: bool) -> list[int]:
        if text in TAGS:
            return [OPEN if text == TAGS[0] else CLOSE]
        before, tag, after = text.partition(TAGS[1])
        return [256 + byte for byte in before.encode()] + (
            [CLOSE, *[256 + byte for byte in after.encode()]] if tag else []
        )

    def piece(self, token: int) -> bytes:
        return bytes([token - 256]) if token >= 256 else b""


class Scripted:
    """A decoder with scripted tokens; it records prompts and how answers ended."""

    def __init__(self, *scripts: list[int]) -> None:
        self.scripts = list(scripts)
        self.prompts: list[Prompt] = []
        self.indices: list[int] = []
        self._events: dict[int, Callable[[], None]] = {}
        self.stats = AnswerStats()

    def interrupt(self) -> None:
        pass

    def at(self, n: int, event: Callable[[], None]) -> None:
        """Calls `event` when token `n` is emitted."""
        self._events[n] = event

    def stream(
        self, prompt: Prompt, sampling: Sampling, *, max_tokens: int, stop_tokens: frozenset[int], first_index: int = 0
    ) -> Iterator[int]:
        self.stats = AnswerStats(prompt=len(prompt.tokens))
        return self._script(prompt, self.stats, max_tokens, stop_tokens, first_index)

    def _script(
        self, prompt: Prompt, stats: AnswerStats, max_tokens: int, stop_tokens: frozenset[int], first_index: int
    ) -> Iterator[int]:
        self.prompts.append(prompt)
        self.indices.append(first_index)
        script = self.scripts.pop(0)
        try:
            for token in script[:max_tokens]:
                stats.emitted += 1
                self._events.get(stats.emitted, lambda: None)()
                yield token
            stats.finish = "stop" if script[:max_tokens][-1] in stop_tokens else "length"
        except GeneratorExit:
            stats.finish = "canceled"
            raise


def text(words: str) -> list[int]:
    return [256 + byte for byte in words.encode()]


def run(
    decoder: Scripted,
    settings: AnswerSettings = DEFAULTS,
    *,
    traces: Sequence[TraceFormat] = (),
    inside: TraceFormat | None = None,
) -> tuple[str, str, Writer]:
    writer = Writer(decoder, Bytes(), settings=settings, form=AnswerForm(tuple(traces), inside))
    segments = list(writer.segments(Prompt((7,)), GREEDY))
    answer = writer.answer
    assert answer.text == "".join(segment.text for segment in segments if not segment.thinking)
    assert answer.thinking == "".join(segment.text for segment in segments if segment.thinking)
    return answer.text, answer.thinking, writer


def test_text_comes_in_whole_characters_and_the_stop_token_is_not_kept() -> None:
    said, _, answer = run(Scripted([*text("é€"), STOP]))
    assert said == "é€" == answer.text
    assert answer.tokens == text("é€")
    assert answer.stats.finish == "stop"
    assert answer.stats.emitted == 6


@pytest.mark.parametrize("n_tokens", [2, 3])
def test_an_answer_that_ends_inside_a_character_leaves_it_out(n_tokens: int) -> None:
    said, _, answer = run(Scripted(text("a€")), AnswerSettings(max_tokens=n_tokens))
    assert said == "a" == answer.text
    assert answer.stats.finish == "length"


def test_half_a_character_before_a_stop_token_becomes_a_replacement_character() -> None:
    said, _, answer = run(Scripted([*text("a€")[:-1], STOP]))
    assert said == "a\ufffd" == answer.text
    assert answer.stats.finish == "stop"


def test_a_stop_string_ends_the_answer_and_the_decoder() -> None:
    decoder = Scripted([*text("one. TWO three"), STOP])
    said, _, answer = run(decoder, AnswerSettings(stop=("TWO",)))
    assert said == "one. "
    assert answer.text == "one. TWO"  # what the cache holds
    assert decoder.stats.finish == "stop"
    assert decoder.stats.emitted == 8


def test_a_stop_takes_effect_after_one_token_while_text_is_held_back() -> None:
    """The text is held back because it may begin the stop string."""
    decoder = Scripted([*text("aaaaaaaa"), STOP])
    writer = Writer(decoder, Bytes(), settings=AnswerSettings(stop=("aaaaaaaaaa",)))
    decoder.at(3, writer.stop)
    assert [segment.text for segment in writer.segments(Prompt((7,)), GREEDY)] == ["aaa"]
    assert writer.tokens == text("aaa")
    assert writer.answer.finish_reason == "canceled"


def test_an_answer_that_is_stopped_before_it_begins_runs_nothing() -> None:
    decoder = Scripted([*text("abc"), STOP])
    writer = Writer(decoder, Bytes(), settings=AnswerSettings())
    writer.stop()
    assert list(writer.segments(Prompt((7,)), GREEDY)) == []
    assert decoder.prompts == []
    assert writer.answer == Answer("", (), "canceled", writer.stats)


def test_a_stream_yields_text_and_then_has_the_answer() -> None:
    decoder = Scripted([OPEN, *text("hm"), CLOSE, *text("4"), STOP])
    writer = Writer(decoder, Bytes(), settings=AnswerSettings(), form=AnswerForm(TRACES))
    stream = AnswerStream(writer, writer.segments(Prompt((7,)), GREEDY))
    assert stream.answer == Answer("", (), "", stream.stats)
    assert list(stream) == ["4"]
    assert list(stream) == []
    assert stream.answer == Answer("4", (OPEN, *text("hm"), CLOSE, *text("4")), "stop", stream.stats, "hm")


@pytest.mark.parametrize(
    ("options", "says"), [({"stop": "END"}, r"stop=\['END'\]"), ({"max_tokens": 0}, "max_tokens must be at least 1")]
)
def test_impossible_options_are_refused(options: AnswerOptions, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        AnswerSettings(**options)
    assert re.search(says, f"{caught.value} {caught.value.hint}")


def test_the_options_are_the_fields_of_the_settings() -> None:
    assert list(AnswerOptions.__annotations__) == [field.name for field in dataclasses.fields(AnswerSettings)]


def test_tags_may_be_control_tokens() -> None:
    said, thought, answer = run(Scripted([OPEN, *text("\nhm\n"), CLOSE, *text("\n\n4"), STOP]), traces=TRACES)
    assert (said, thought) == ("4", "hm\n")
    assert answer.text == "<think>\nhm\n</think>\n\n4"


class Channels(Bytes):
    """Gemma 4's tags: the opening one is a control token and a word."""

    def encode(self, text: str, *, special: bool) -> list[int]:
        marks = {"<|channel>": [OPEN], "<channel|>": [CLOSE]}
        return marks.get(text) or [256 + byte for byte in text.encode()]


def test_a_tag_may_begin_with_a_control_token() -> None:
    gemma = TraceFormat("<|channel>thought", ("<channel|>",))
    decoder = Scripted([OPEN, *text("thought\nhm"), CLOSE, *text("4"), STOP])
    writer = Writer(decoder, Channels(), settings=AnswerSettings(), form=AnswerForm((gemma,)))
    list(writer.segments(Prompt((7,)), GREEDY))
    assert (writer.answer.text, writer.answer.thinking.strip()) == ("4", "hm")


def test_without_tags_nothing_is_reasoning() -> None:
    said, thought, _ = run(Scripted([*text("<think>x</think>4"), STOP]))
    assert (said, thought) == ("<think>x</think>4", "")


def test_the_template_may_have_opened_the_trace() -> None:
    said, thought, _ = run(Scripted([*text("hm"), CLOSE, *text("4"), STOP]), traces=TRACES, inside=THINK)
    assert (said, thought) == ("4", "hm")


def test_the_budget_closes_the_reasoning_and_the_answer_continues() -> None:
    decoder = Scripted([OPEN, *text("abcdefgh"), STOP], [*text("4"), STOP])
    said, thought, answer = run(decoder, AnswerSettings(think_budget=4), traces=TRACES)
    assert (said, thought) == ("4", "abcd\n")  # the tag is not counted
    first, second = decoder.prompts
    closing = [256 + ord("\n"), CLOSE, *text("\n\n")]
    assert list(second.tokens) == [*first.tokens, OPEN, *text("abcd"), *closing]
    assert decoder.indices == [0, 5 + len(closing)]  # the noise of the seed continues as well
    assert answer.tokens == [OPEN, *text("abcd"), *closing, *text("4")]
    assert answer.stats.emitted == 5 + 2
    assert answer.stats.finish == "stop"


def test_a_budget_that_is_not_used_up_changes_nothing() -> None:
    decoder = Scripted([OPEN, *text("ab"), CLOSE, *text("4"), STOP])
    said, thought, _ = run(decoder, AnswerSettings(think_budget=4), traces=TRACES)
    assert (said, thought, len(decoder.prompts)) == ("4", "ab", 1)


def test_a_budget_that_leaves_no_tokens_for_an_answer_ends_by_length() -> None:
    decoder = Scripted([OPEN, *text("abcdefgh"), STOP])
    said, _, answer = run(decoder, AnswerSettings(max_tokens=6, think_budget=4), traces=TRACES)
    assert said == ""
    assert answer.stats.finish == "length"
    assert answer.stats.emitted == 5


def test_without_thinking_a_trace_opened_by_the_prompt_is_closed_at_once() -> None:
    decoder = Scripted([*text("42"), STOP])
    said, thought, answer = run(decoder, AnswerSettings(thinking=False, max_tokens=3), traces=TRACES, inside=THINK)
    assert (said, thought) == ("42", "")
    assert list(decoder.prompts[0].tokens) == [7, 256 + ord("\n"), CLOSE, *text("\n\n")]
    assert answer.answer.stats.finish == "stop"


def test_without_thinking_a_trace_opened_by_the_model_is_closed_at_once() -> None:
    decoder = Scripted([OPEN, *text("hm"), STOP], [*text("4"), STOP])
    assert run(decoder, AnswerSettings(thinking=False), traces=TRACES)[:2] == ("4", "")
    assert len(decoder.prompts) == 2


class Harmony(Bytes):
    """Every mark is a control token without text."""

    marks = ("<|end|>", "<|start|>", "<|channel|>", "<|message|>")

    def encode(self, text: str, *, special: bool) -> list[int]:
        words = re.findall(r"<\|(?:end|start|channel|message)\|>|[\s\S]", text) if special else list(text)
        return [10 + self.marks.index(word) if word in self.marks else 256 + ord(word) for word in words]


@pytest.mark.parametrize("budget", [None, 100])
def test_channel_marks_may_be_control_tokens_without_text(budget: int | None) -> None:
    tokenizer = Harmony()
    harmony = may_use("", tokenizer, None)
    wire = "<|channel|>analysis<|message|>We need.<|end|><|start|>assistant<|channel|>final<|message|>Hello"
    decoder = Scripted([*tokenizer.encode(wire, special=True), STOP])
    writer = Writer(decoder, tokenizer, settings=AnswerSettings(think_budget=budget), form=AnswerForm(harmony))
    list(writer.segments(Prompt((7,)), GREEDY))
    assert (writer.answer.text, writer.answer.thinking) == ("Hello", "We need.")


def test_a_budget_closes_a_reasoning_channel() -> None:
    tokenizer = Harmony()
    wire = tokenizer.encode("<|channel|>analysis<|message|>We need and need", special=True)
    decoder = Scripted([*wire, STOP], [*text("Hello"), STOP])
    writer = Writer(
        decoder, tokenizer, settings=AnswerSettings(think_budget=8), form=AnswerForm(may_use("", tokenizer, None))
    )
    list(writer.segments(Prompt((7,)), GREEDY))
    assert (writer.answer.text, writer.answer.thinking) == ("Hello", "We need ")
    ending = tokenizer.encode("<|end|><|start|>assistant<|channel|>final<|message|>", special=True)
    assert list(decoder.prompts[1].tokens)[-len(ending) :] == ending


def test_a_reader_who_leaves_ends_the_decoder() -> None:
    decoder = Scripted([*text("abc"), STOP])
    writer = Writer(decoder, Bytes(), settings=AnswerSettings())
    stream = AnswerStream(writer, writer.segments(Prompt((7,)), GREEDY))
    assert next(stream) == "a"
    stream.close()
    assert decoder.stats.finish == "canceled"
    assert stream.answer.tokens == tuple(text("a"))


def test_two_parts_are_one_answer() -> None:
    first = AnswerStats(prompt=5, reused=2, prefilled=3, emitted=4, first_token_s=0.1, decode_s=1.0, finish="canceled")
    first.arms = {"none": ArmStats(rounds=3, emitted=3, seconds=1.0)}
    second = AnswerStats(prompt=12, reused=9, prefilled=3, emitted=6, first_token_s=9.0, decode_s=2.0, finish="stop")
    second.arms = {"none": ArmStats(rounds=1, emitted=1, seconds=0.5), "lookup": ArmStats(1, 4, 3, 4, 1.5)}
    both = joined(first, second)
    assert (both.prompt, both.reused, both.prefilled, both.emitted) == (5, 2, 6, 10)
    assert (both.first_token_s, both.decode_s, both.finish) == (0.1, 3.0, "stop")
    assert both.arms == {"none": ArmStats(4, 0, 0, 4, 1.5), "lookup": ArmStats(1, 4, 3, 4, 1.5)}
    assert first.arms["none"].rounds == 3  # the parts are unchanged


@pytest.mark.parametrize("emitted", [0, 1])
def test_no_tokens_have_no_speed(emitted: int) -> None:
    assert AnswerStats(emitted=emitted).tokens_per_s == 0.0

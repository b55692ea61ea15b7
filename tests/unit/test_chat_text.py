"""Bytes to text, stop strings and reasoning traces, for any split of the text into pieces."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.chat.stop import StopStrings, tail_that_may_become
from edgeinfer.chat.thinking import Segment, ThinkingSplitter
from edgeinfer.chat.trace_formats import THINK
from edgeinfer.chat.utf8 import Utf8Stream
from edgeinfer.errors import UsageError


def cut(text: str, places: list[int]) -> list[str]:
    """`text` cut at `places`."""
    ends = sorted({place % (len(text) + 1) for place in places} | {0, len(text)})
    return [text[begin:end] for begin, end in pairwise(ends)]


def test_a_character_is_emitted_when_it_is_complete() -> None:
    stream = Utf8Stream()
    assert [stream.feed(bytes([byte])) for byte in "aé€😀".encode()] == ["a", "", "é", "", "", "€", "", "", "", "😀"]
    assert stream.finish() == ""


def test_bytes_that_are_not_utf8_become_replacement_characters() -> None:
    stream = Utf8Stream()
    assert stream.feed(b"a\xffb") == "a\ufffdb"
    assert stream.feed(b"\xe2\x82") == ""
    assert stream.finish() == "\ufffd"


@given(st.text(), st.lists(st.integers(0, 200)))
def test_any_split_of_the_bytes_gives_the_same_text(text: str, places: list[int]) -> None:
    data = text.encode("utf-8", "replace")
    stream = Utf8Stream()
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    fed = [stream.feed(data[begin:end]) for begin, end in pairwise(ends)]
    assert "".join(fed) + stream.finish() == data.decode("utf-8")


def test_the_longest_tail_that_may_grow_into_a_stop_string() -> None:
    assert tail_that_may_become("so EN", ["END"]) == 2
    assert tail_that_may_become("so END", ["END"]) == 0  # that one is complete: found, not held back
    assert tail_that_may_become("aab", ["aabc", "bc"]) == 3
    assert tail_that_may_become("abc", []) == 0


def test_text_before_a_stop_string_passes_and_the_rest_does_not() -> None:
    stop = StopStrings(["END", "\n\n"])
    assert [stop.feed(text) for text in ("so E", "N", "Ding", "more")] == ["so ", "", "", ""]
    assert stop.stopped


def test_text_that_only_began_like_a_stop_string_passes() -> None:
    stop = StopStrings(["END"])
    assert [stop.feed(text) for text in ("EN", "ERGY", " E")] == ["", "ENERGY", " "]
    assert stop.finish() == "E"
    assert not stop.stopped


def test_the_earliest_of_two_stop_strings_wins() -> None:
    stop = StopStrings(["later", "now"])
    assert stop.feed("do it now or later") == "do it "


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(UsageError, match="must not be empty"):
        StopStrings([""])


@given(st.text("abSTOP "), st.lists(st.integers(0, 100)))
def test_any_split_stops_at_the_same_place(text: str, places: list[int]) -> None:
    stop = StopStrings(["STOP"])
    passed = "".join(stop.feed(piece) for piece in cut(text, places)) + stop.finish()
    assert passed == text.partition("STOP")[0]


def split(pieces: list[str], *, inside: bool = False) -> tuple[str, str]:
    splitter = ThinkingSplitter((THINK,), inside=THINK if inside else None)
    segments = [segment for piece in pieces for segment in splitter.feed(piece)] + list(splitter.finish())
    thought = "".join(segment.text for segment in segments if segment.thinking)
    return thought, "".join(segment.text for segment in segments if not segment.thinking)


def test_reasoning_is_separated_from_the_answer() -> None:
    assert split(["<think>\nhm", "m</think>\n\nSo: 4"]) == ("hmm", "So: 4")
    assert split(["<th", "ink>a</thi", "nk>b"]) == ("a", "b")
    assert split(["hm</think>4"], inside=True) == ("hm", "4")
    assert split(["1 < 2 and <thin air"]) == ("", "1 < 2 and <thin air")


@pytest.mark.parametrize(
    ("pieces", "thought", "said"),
    [
        (["Use ", "<think>", " tags in XML, and </think>."], "", "Use <think> tags in XML, and </think>."),
        (["  \n", "<think>a</think> <think>b</think> c"], "ab", "c"),
        (["</think>\n\n4 and <think>"], "", "4 and <think>"),
        (["  4"], "", "  4"),
        (["\n"], "", "\n"),
        (["<thin"], "", "<thin"),
        (["<think>why</think>yes <think>no</think>"], "why", "yes <think>no</think>"),
    ],
)
def test_a_trace_begins_only_before_the_first_words(pieces: list[str], thought: str, said: str) -> None:
    assert split(pieces) == (thought, said)
    assert split(list("".join(pieces))) == (thought, said)


def test_a_trace_that_never_ends_is_all_reasoning() -> None:
    assert split(["<think>and on and on </thin"]) == ("and on and on </thin", "")


@given(st.lists(st.integers(0, 100)))
def test_any_split_gives_the_same_reasoning_and_answer(places: list[int]) -> None:
    assert split(cut("<think>\na < b </ c\n</think>\n\nThe answer <b>", places)) == (
        "a < b </ c\n",
        "The answer <b>",
    )


def test_segments_name_their_kind() -> None:
    splitter = ThinkingSplitter((THINK,))
    assert list(splitter.feed("<think>x</think>y")) == [Segment("x", thinking=True), Segment("y", thinking=False)]

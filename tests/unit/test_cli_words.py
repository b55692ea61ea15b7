"""The text of the command line: stats, sizes, tables, settings, progress, the banner, the live line."""

import dataclasses
import io
import sys
import time
from contextlib import nullcontext
from types import SimpleNamespace
from typing import cast

import pytest

from edgeinfer.cli import output, progress, streaming
from edgeinfer.cli.banner import banner
from edgeinfer.cli.lines import messages
from edgeinfer.cli.live_line import LiveLine, column_after
from edgeinfer.cli.options import add_plan_options, add_sampling_options, sampling_from
from edgeinfer.cli.parser import make_parser
from edgeinfer.cli.settings import Settings, changed, lines
from edgeinfer.cli.stats_lines import speedup, stats_json, stats_lines
from edgeinfer.cli.streaming import Screen
from edgeinfer.decode.stats import AnswerStats, ArmStats
from edgeinfer.errors import UsageError
from edgeinfer.plan import Request, make_plan
from edgeinfer.runner.answer import AnswerStream
from edgeinfer.types import GREEDY, Sampling
from tests.unit.plan_things import GGUF, artifact, catalog, device, model

PLAIN = AnswerStats(
    prompt=40, reused=30, prefilled=10, kept=60, emitted=21, first_token_s=0.05, decode_s=2.0, plain_s_per_token=0.1
)
PLAIN.arms = {"none": ArmStats(rounds=20, emitted=20, seconds=2.0)}
DRAFTED = dataclasses.replace(PLAIN, decode_s=1.25, evicted=64, reanchored=1, reprefilled=8)
DRAFTED.arms = {
    "none": ArmStats(rounds=4, emitted=4, seconds=0.4),
    "lookup": ArmStats(rounds=4, drafted=16, accepted=12, emitted=16, seconds=0.85),
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal_on_stderr(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A stderr that is a terminal with color."""
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return shown


def test_stats_of_plain_decoding() -> None:
    assert stats_lines(PLAIN) == [
        "21 tokens, 10.0 tokens/s, first token 50 ms; prompt 40: 30 reused, 10 prefilled",
        "20 rounds, nothing drafted",
        "window: 60 kept",
    ]


@pytest.mark.parametrize("arm", ["none", "lookup"])
@pytest.mark.parametrize("decode_s", [1.8, 2.1])
def test_no_speedup_is_shown_when_nothing_was_drafted(arm: str, decode_s: float) -> None:
    """Plain rounds would be compared with plain rounds."""
    stats = dataclasses.replace(PLAIN, decode_s=decode_s)
    stats.arms = {**PLAIN.arms, arm: ArmStats(rounds=20, emitted=20, seconds=decode_s)}
    assert stats_lines(stats)[1] == f"{stats.rounds} rounds, nothing drafted"
    assert stats_json(stats)["speedup"] is None


def test_stats_with_drafts_and_a_full_window() -> None:
    assert stats_lines(DRAFTED) == [
        "21 tokens, 16.0 tokens/s, first token 50 ms; prompt 40: 30 reused, 10 prefilled",
        "8 rounds, 16 drafted, 12 accepted (acceptance 0.75), 4.00 tokens a verify, 1.60 x plain decoding",
        "time by arm: lookup 850 ms in 4 rounds, none 400 ms in 4 rounds",
        "window: 60 kept, 64 evicted, 1 re-anchored, 8 prefilled again",
    ]


def test_rejected_drafts_count_as_a_loss() -> None:
    stats = dataclasses.replace(PLAIN, decode_s=2.5)
    stats.arms = {**PLAIN.arms, "early-exit": ArmStats(rounds=2, drafted=8, emitted=2, seconds=0.5)}
    assert stats_lines(stats)[1] == (
        "22 rounds, 8 drafted, 0 accepted (acceptance 0.00), 1.00 tokens a verify, 0.80 x plain decoding"
    )


def test_no_speedup_without_a_plain_cost() -> None:
    assert speedup(DRAFTED) == pytest.approx(1.6)
    assert speedup(dataclasses.replace(DRAFTED, plain_s_per_token=0.0)) is None
    assert speedup(AnswerStats()) is None
    assert stats_json(AnswerStats())["acceptance"] is None
    assert stats_json(DRAFTED)["acceptance"] == 0.75
    assert stats_json(DRAFTED)["tokens_per_verify"] == 4.0


@pytest.mark.parametrize(
    ("n_bytes", "text"), [(0, "0 bytes"), (99_999, "99,999 bytes"), (26_571_744, "26.6 MB"), (2_497_280_256, "2.50 GB")]
)
def test_sizes_have_fitting_units(n_bytes: int, text: str) -> None:
    assert output.size(n_bytes) == text


def test_tables_are_aligned_and_suggestions_joined() -> None:
    assert output.table([["a", "1"], ["long", ""]], head=("x", "y")) == "x     y\na     1\nlong"
    assert output.near("caht", ["chat", "show"]) == "did you mean `chat`?"
    assert output.near("zzz", ["chat"]) == ""


def test_color_only_on_a_terminal_that_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_on_stderr(monkeypatch)
    assert output.style("x", output.DIM, terminal) == "\033[2mx\033[0m"
    assert output.style("x", output.DIM, io.StringIO()) == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert output.style("x", output.DIM, terminal) == "x"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert output.style("x", output.DIM, terminal) == "x"


def test_a_model_cannot_drive_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr(sys, "stdout", shown)
    screen = Screen(show_thinking=True, quiet=False)
    screen.answer("a\033]0;title\007\033[2Jb\r\n\tc\u202e")
    assert shown.getvalue() == "a]0;title[2Jb\n\tc"


def test_a_pipe_gets_the_text_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stdout", shown)
    screen = Screen(show_thinking=True, quiet=False)
    screen.answer("a\033b")
    screen.finish()
    assert shown.getvalue() == "a\033b\n"


def test_reasoning_is_dimmed_on_stderr_and_the_answer_starts_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_on_stderr(monkeypatch)
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stdout", shown)
    screen = Screen(show_thinking=True, quiet=False)
    screen.thinking("hm")
    screen.answer("4")
    screen.finish()
    assert terminal.getvalue() == "\033[2mhm\033[0m\n\n"
    assert shown.getvalue() == "4\n"
    folded = Screen(show_thinking=False, quiet=False)
    folded.thinking("hm")
    assert terminal.getvalue() == "\033[2mhm\033[0m\n\n"


def test_the_live_line_is_below_the_text_and_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_on_stderr(monkeypatch)
    monkeypatch.setenv("COLUMNS", "80")
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    live = LiveLine()
    live._counted = -1.0
    live.draw(DRAFTED, "text")
    drawn = terminal.getvalue()
    assert drawn.endswith("\0337\033[B\r\033[2m21 tokens, 16.0 tokens/s, arm: lookup\033[0m\0338")
    live.close()
    assert terminal.getvalue() == drawn + "\033[J"
    assert out.getvalue() == ""


def test_the_live_line_waits_while_a_wrap_is_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some terminals (tmux) lose a pending wrap when the cursor is restored. The next character would then
    overwrite the last one of the row."""
    terminal = terminal_on_stderr(monkeypatch)
    monkeypatch.setenv("COLUMNS", "10")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    live = LiveLine()
    live._counted = -1.0

    def drawn(text: str) -> bool:
        live.hide()
        before = len(terminal.getvalue())
        live.draw(DRAFTED, text)
        return len(terminal.getvalue()) > before

    assert drawn("123456789")
    assert not drawn("0")
    assert drawn("1")
    assert not drawn("234567890")
    assert drawn("\n12345678")
    assert not drawn("世")  # two columns wide
    assert drawn("\n123456789世")  # which does not fit beside the nine
    live.close()


@pytest.mark.parametrize(("patience_s", "said"), [(0.01, 1), (60.0, 0)])
def test_a_long_prompt_is_announced_once(monkeypatch: pytest.MonkeyPatch, patience_s: float, said: int) -> None:
    terminal = terminal_on_stderr(monkeypatch)
    monkeypatch.setattr(streaming, "PATIENCE_S", patience_s)
    reading = cast("AnswerStream", SimpleNamespace(stats=AnswerStats(prompt=2712, reused=12)))
    with streaming.patience(reading) as begun:
        until = time.monotonic() + 5
        while said and "tokens)" not in terminal.getvalue() and time.monotonic() < until:
            time.sleep(0.01)
        begun()
        begun()
    assert terminal.getvalue().count("(reading 2,700 tokens)") == said


def test_no_live_line_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    live = LiveLine()
    live.draw(DRAFTED, "text")
    live.close()
    assert shown.getvalue() == ""


def test_progress_in_a_log_is_a_line_for_every_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    draw = progress.Progress()
    for n_bytes in range(0, 10_000_001, 500_000):
        draw(n_bytes, 10_000_000)
    draw.close()
    assert shown.getvalue().splitlines() == [f"{tenth * 10}% of 10.0 MB" for tenth in range(11)]


def test_progress_on_a_terminal_is_one_line_that_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_on_stderr(monkeypatch)
    draw = progress.Progress()
    draw(10_000_000, 10_000_000)
    draw.close()
    first, second = terminal.getvalue().split("\r\033[2K")[1:]
    assert first.startswith("100% of 10.0 MB, ")
    assert second == ""


SETTINGS = Settings(Sampling(temperature=0.7), max_tokens=100)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("temp", "0", "  temp            0.0"),
        ("temperature", "1.5", "  temp            1.5"),
        ("top_k", "40", "  top-k           40"),
        ("system", "Be brief.", "  system          Be brief."),
        ("stop", "END", "  stop            'END'"),
        ("stop", r'"\n\n" "The end." don\u0027t', "  stop            '\\n\\n' 'The end.' \"don't\""),
        ("stop", r"C:\\new \d", "  stop            'C:\\\\new' '\\\\d'"),
        ("thinking", "off", "  thinking        off"),
        ("max-tokens", "7", "  max-tokens      7"),
    ],
)
def test_a_setting_is_changed_and_shown(name: str, value: str, line: str) -> None:
    after = changed(SETTINGS, name, value)
    assert line in lines(after)
    assert line not in lines(SETTINGS)


@pytest.mark.parametrize("name", ["top-k", "top-p", "min-p"])
def test_a_truncation_without_a_temperature_is_refused(name: str) -> None:
    greedy = Settings(GREEDY, max_tokens=100)
    with pytest.raises(UsageError, match=f"{name} has no effect at temperature 0"):
        changed(greedy, name, "0.5" if name.endswith("p") else "5")
    warm = changed(changed(greedy, "temp", "0.5"), name, "1")
    assert warm.sampling.temperature == 0.5

    parser = make_parser("run", "", "", "")
    add_sampling_options(parser)
    for argv, refused in (([f"--{name}", "1"], True), ([f"--{name}", "1", "--temp", "0"], False)):
        with pytest.raises(UsageError, match=f"--{name} has no effect") if refused else nullcontext():
            assert sampling_from(parser.parse(argv), GREEDY).temperature == 0
    assert sampling_from(parser.parse([f"--{name}", "1"]), Sampling(temperature=0.3)).temperature == 0.3


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("tmep", "1", "there is no setting"),
        ("temp", "hot", "must be a number"),
        ("top-p", "1.1", "from 0 to 1"),
        ("thinking", "maybe", "on or off"),
        ("seed", "-1", "at least 0"),
        ("max-tokens", "", "from 1 to"),
        ("stop", "don't", "stop must close every quote"),
        ("stop", '""', "stop must not be empty"),
    ],
)
def test_a_setting_that_is_out_of_range_is_refused(name: str, value: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        changed(SETTINGS, name, value)


class Typed:
    interactive = False

    def __init__(self, *typed: str) -> None:
        self.typed = list(typed)
        self.prompts: list[str] = []

    def read(self, prompt: str) -> str | None:
        self.prompts.append(prompt)
        return self.typed.pop(0) if self.typed else None


def test_messages_may_have_one_line_or_many() -> None:
    source = Typed("Hi", "", '"""one', "  two", 'three"""', '"""all in one"""', '"""', "x", '"""')
    assert list(messages(source)) == ["Hi", "one\n  two\nthree", "all in one", "x"]
    assert source.prompts[2:5] == [">>> ", "... ", "... "]


def test_an_unfinished_message_is_not_sent() -> None:
    with pytest.raises(UsageError, match="never ended"):
        list(messages(Typed('"""one', "two")))


def test_the_banner_of_a_real_model_has_no_demo_note() -> None:
    plan = make_plan(device(8), catalog(model("real", 1, artifact(1, "Q4_K_M"))), [GGUF], Request())
    text = "\n".join(banner(plan))
    assert "Q4_K_M on gguf" in text
    assert "demonstration" not in text


def test_flags_and_arguments_come_in_any_order() -> None:
    parser = make_parser("try", "help", "try WORD", "  edgeinfer try x")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--flag")
    args = parser.parse(["a", "--flag", "1", "b"])
    assert (args.words, args.flag) == (["a", "b"], "1")
    with pytest.raises(UsageError, match="there is no flag `--flog`") as caught:
        parser.parse(["--flog", "1"])
    assert caught.value.hint == "did you mean `--flag`?"


def test_every_suggested_value_is_accepted() -> None:
    parser = make_parser("plan", "", "", "")
    add_plan_options(parser)
    assert parser.parse([]).backend == ""
    with pytest.raises(UsageError, match="invalid choice: 'llama'") as caught:
        parser.parse(["--backend", "llama"])
    assert "''" not in str(caught.value)
    assert "gguf" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "means"),
    [
        (r"\n", "\n"),
        (r"a\tb\r\n", "a\tb\r\n"),
        (r"\\n", r"\n"),
        (r"\\\n", "\\\n"),
        (r"\u0041\u202f", "A\u202f"),
        (r"\d\u12", r"\d\u12"),
        ("\\", "\\"),
        ("a\nb", "a\nb"),
    ],
)
def test_a_stop_text_may_be_written_with_escapes(given: str, means: str) -> None:
    parser = make_parser("run", "", "", "")
    add_sampling_options(parser)
    assert parser.parse(["--stop", given, "--stop", "END"]).stop == [means, "END"]


def test_stop_strings_can_be_removed() -> None:
    assert changed(changed(SETTINGS, "stop", "a b"), "stop", "").stop == ()


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("abc", 3),
        ("e\u0301", 1),
        ("世界", 4),
        ("می\u200cخواهم", 7),
        ("a\u00a0b\u202fc\u3000d", 8),
        ("\U0001fae9", 2),
        ("a\tb", 9),
    ],
)
def test_the_width_of_text_in_columns(text: str, columns: int) -> None:
    assert column_after(text, 0, 80) == columns

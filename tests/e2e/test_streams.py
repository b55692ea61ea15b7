"""Standard streams that are closed, full or shared, pipes that stay open, and byte order marks."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.e2e.conftest import Cli, Ran, environment, one_core

BASH = shutil.which("bash")
needs_bash = pytest.mark.skipif(BASH is None, reason="bash is not installed")
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")


def in_shell(folder: Path, script: str, args: Sequence[str] = ()) -> Ran:
    """Runs a bash script in which `edgeinfer` is this program; `args` become "$@"."""
    program = folder / "bin" / "edgeinfer"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -X utf8 -m edgeinfer "$@"\n')
    program.chmod(0o755)
    found = {"PATH": f"{program.parent}:{os.environ.get('PATH', '')}"}
    done = subprocess.run(
        [str(BASH), "-c", script, "bash", *args],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(folder) | found,
        cwd=folder,
        timeout=120,
        preexec_fn=one_core,
        check=False,
    )
    assert b"Traceback" not in done.stderr
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


@needs_bash
@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
def test_an_answer_needs_neither_stdin_nor_stderr(tmp_path: Path, on_tiny: list[str], cli: Cli, closed: str) -> None:
    answer = cli("run", *on_tiny, "the rain").out
    ran = in_shell(tmp_path, f'edgeinfer run "$@" "the rain" {closed}', on_tiny)
    assert (ran.code, ran.out) == (0, answer)


@needs_bash
@pytest.mark.parametrize("command", ["run --model demo Hi -n 1", "list", "--help", "plan demo", "chat --model demo"])
def test_a_closed_stdout_ends_quietly(tmp_path: Path, command: str) -> None:
    ran = in_shell(tmp_path, f"edgeinfer {command} >&-")
    assert ran.code == 0, ran.err
    assert "error:" not in ran.err


@needs_bash
def test_a_closed_stdin_holds_no_prompt_and_no_messages(tmp_path: Path, on_tiny: list[str]) -> None:
    ran = in_shell(tmp_path, 'edgeinfer run "$@" <&-', on_tiny)
    assert ran.code == 2
    assert "error: the prompt is empty" in ran.err
    ran = in_shell(tmp_path, 'edgeinfer chat "$@" <&-', on_tiny)
    assert (ran.code, ran.out) == (0, "")


@needs_bash
def test_a_stdin_that_cannot_be_read_ends_the_chat_once(tmp_path: Path, on_tiny: list[str]) -> None:
    ran = in_shell(tmp_path, 'edgeinfer chat "$@" 0>/dev/null', on_tiny)
    assert ran.code == 2
    assert ran.err.count("error: stdin cannot be read") == 1


@needs_bash
@needs_full
@pytest.mark.parametrize(
    "command", ['run "$@" "the rain"', 'run "$@" --json "the rain"', "list", "--help", "chat --help", "bench speed -h"]
)
def test_a_full_disk_is_reported(tmp_path: Path, on_tiny: list[str], command: str) -> None:
    ran = in_shell(tmp_path, f"edgeinfer {command} > /dev/full", on_tiny)
    assert ran.code == 2
    assert "error: stdout cannot be written: No space left on device\nhint: " in ran.err


@needs_bash
@needs_full
def test_a_chat_whose_stdout_is_full_can_be_saved(tmp_path: Path, on_tiny: list[str]) -> None:
    ran = in_shell(tmp_path, 'printf "the rain\\n/save talk.json\\n" | edgeinfer chat "$@" > /dev/full', on_tiny)
    assert ran.code == 2
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert saved["messages"][0]["content"] == "the rain"


@needs_bash
@pytest.mark.parametrize("to", ["/dev/full", ">(true)"])
def test_a_stderr_that_takes_nothing_stops_no_answer(tmp_path: Path, on_tiny: list[str], cli: Cli, to: str) -> None:
    if to == "/dev/full" and not Path(to).exists():
        pytest.skip("/dev/full is Linux's")
    answer = cli("run", *on_tiny, "the rain").out
    ran = in_shell(tmp_path, f'edgeinfer run "$@" --stats "the rain" 2> {to}', on_tiny)
    assert (ran.code, ran.out) == (0, answer)


QUESTIONS = "the rain\nin the train\n"


@needs_bash
@pytest.mark.parametrize(
    "loop",
    [
        'while read -r question; do edgeinfer run "$@" "$question"; done < questions.txt',
        'cat questions.txt | while read -r question; do edgeinfer run "$@" "$question"; done',
    ],
    ids=["file", "pipe"],
)
def test_the_program_does_not_read_the_stdin_of_a_shell_loop(
    tmp_path: Path, on_tiny: list[str], cli: Cli, loop: str
) -> None:
    if "cat" in loop and not Path("/proc/self").exists():
        pytest.skip("only /proc tells who else reads a pipe")
    (tmp_path / "questions.txt").write_text(QUESTIONS)
    answers = [cli("run", *on_tiny, question).out for question in QUESTIONS.splitlines()]
    ran = in_shell(tmp_path, loop, on_tiny)
    assert ran.out == "".join(answers)
    assert ran.err.count("(stdin was left to the shell that reads it; `-` after the prompt adds it)") == 2


@needs_bash
@pytest.mark.parametrize(
    "command",
    [
        'printf "the rain" | edgeinfer run "$@" "in the train"; true',
        'printf "the rain" > text.txt; edgeinfer run "$@" "in the train" < text.txt; true',
        'printf "the rain" | { edgeinfer run "$@" "in the train" -; true; }',
        'printf "the rain" | { edgeinfer run "$@" --prompt "in the train" -; true; }',
    ],
    ids=["pipe", "file", "asked", "asked with the flag"],
)
def test_piped_text_follows_the_prompt(tmp_path: Path, on_tiny: list[str], cli: Cli, command: str) -> None:
    answer = cli("run", *on_tiny, "in the train\n\nthe rain").out
    ran = in_shell(tmp_path, command, on_tiny)
    assert ran.out == answer


def test_a_pipe_that_stays_open_is_mentioned(tmp_path: Path, on_tiny: list[str]) -> None:
    reading, writing = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-m", "edgeinfer", "run", *on_tiny, "the rain"],
        stdin=reading,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(tmp_path),
    ) as running:
        os.close(reading)
        assert running.stderr is not None
        assert running.stderr.readline() == b"(waiting for the end of stdin; with `< /dev/null` there is none)\n"
        os.close(writing)
        out, _ = running.communicate(timeout=60)
    assert running.returncode == 0
    assert out


def marked(text: str, codec: str) -> bytes:
    return ("\ufeff" + text).encode(codec) if codec in ("utf-16-le", "utf-16-be") else text.encode(codec)


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16-le", "utf-16-be"])
def test_a_byte_order_mark_in_piped_text_is_removed(cli: Cli, on_tiny: list[str], tmp_path: Path, codec: str) -> None:
    talk = cli("chat", *on_tiny, stdin=marked("/set max-tokens 3\r\nthe rain\r\nin the train", codec))
    plain = cli("chat", *on_tiny, "-n", "3", stdin=b"the rain\nin the train\n")
    assert (talk.code, talk.out) == (0, plain.out)
    answer = cli("run", *on_tiny, "the rain").out
    assert cli("run", *on_tiny, stdin=marked("the rain", codec)).out == answer


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16-le", "utf-16-be"])
def test_a_byte_order_mark_in_a_file_is_removed(cli: Cli, on_tiny: list[str], tmp_path: Path, codec: str) -> None:
    (tmp_path / "own.jinja").write_bytes(marked("{% for m in messages %}{{ m.content }}{% endfor %}", codec))
    ran = cli("run", *on_tiny, "--template", "own.jinja", "--stats", "the rain")
    assert ran.code == 0, ran.err
    assert "prompt 2:" in ran.err  # `the`, ` rain`
    saved = {"edgeinfer_conversation": 1, "model": "tiny", "messages": [{"role": "user", "content": "the rain"}]}
    (tmp_path / "talk.json").write_bytes(marked(json.dumps(saved), codec))
    assert "(loaded 1 message" in cli("chat", *on_tiny, stdin=b"/load talk.json\n").err


def test_a_byte_order_mark_in_an_argument_is_removed(cli: Cli, on_tiny: list[str]) -> None:
    plain = cli("run", *on_tiny, "--system", "the train", "--stats", "the rain")
    ran = cli("run", *on_tiny, "--system", "\ufeffthe train", "--stats", "\ufeffthe rain")
    assert ran.out == plain.out
    prompt = plain.err.partition("prompt ")[2].partition(":")[0]
    assert f"prompt {prompt}:" in ran.err


def test_utf_16_that_is_cut_is_refused_and_the_lines_before_it_are_answered(cli: Cli, on_tiny: list[str]) -> None:
    ran = cli("chat", *on_tiny, stdin="the rain\nin the".encode("utf-16")[:-1])
    assert ran.code == 2
    assert ran.out
    assert ran.err.count("error: stdin ends inside a character of UTF-16") == 1


@pytest.mark.parametrize("command", [["run", "-"], ["chat"]])
def test_a_pipe_in_non_blocking_mode_is_waited_for(tmp_path: Path, on_tiny: list[str], command: list[str]) -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with subprocess.Popen(
        [sys.executable, "-m", "edgeinfer", *command, *on_tiny],
        stdin=reading,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(tmp_path),
    ) as running:
        os.close(reading)
        assert running.stderr is not None
        assert running.stderr.readline()  # it waits, or has loaded
        os.write(writing, b"the rain\n")
        os.close(writing)
        out, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    assert out


JOINED = "{% for m in messages %}{{ m.content }}{% endfor %}"


@needs_bash
def test_a_template_or_a_conversation_may_come_out_of_a_pipe(tmp_path: Path, on_tiny: list[str], cli: Cli) -> None:
    (tmp_path / "own.jinja").write_text(JOINED)
    plain = cli("run", *on_tiny, "--template", "own.jinja", "the rain")
    ran = in_shell(tmp_path, f"edgeinfer run \"$@\" --template <(echo -n '{JOINED}') 'the rain'", on_tiny)
    assert (ran.code, ran.out) == (0, plain.out), ran.err
    saved = {"edgeinfer_conversation": 1, "model": "tiny", "messages": [{"role": "user", "content": "the rain"}]}
    (tmp_path / "talk.json").write_text(json.dumps(saved))
    ran = in_shell(tmp_path, 'edgeinfer chat "$@" <<< "/load "<(cat talk.json)', on_tiny)
    assert "(loaded 1 message" in ran.err
    ran = in_shell(tmp_path, 'mkfifo talk; cat talk.json > talk & edgeinfer chat "$@" <<< "/load talk"', on_tiny)
    assert "(loaded 1 message" in ran.err


@needs_bash
def test_a_pipe_that_nobody_fills_is_mentioned(tmp_path: Path, on_tiny: list[str]) -> None:
    said = "(waiting for the end of own)"
    begin = 'mkfifo own; edgeinfer run "$@" --template own "the rain" 2> err &'
    ran = in_shell(tmp_path, f"{begin} until grep -q '{said}' err; do sleep 0.1; done; echo hi > own; wait $!", on_tiny)
    assert ran.code == 0
    assert ran.out


@needs_bash
def test_a_template_that_is_empty_is_refused(tmp_path: Path, on_tiny: list[str]) -> None:
    ran = in_shell(tmp_path, 'edgeinfer run "$@" --template <(true) "the rain"', on_tiny)
    assert ran.code == 2
    assert "is empty" in ran.err


@needs_bash
def test_a_conversation_is_written_into_a_pipe_and_never_in_place_of_it(tmp_path: Path, on_tiny: list[str]) -> None:
    script = 'printf "the rain\\n/save /dev/stdout\\n/save pipe\\n" | edgeinfer chat "$@" | cat; test -p pipe'
    ran = in_shell(tmp_path, "mkfifo pipe; " + script, on_tiny)
    assert ran.code == 0
    assert json.loads(ran.out[ran.out.index("{") :])["messages"][0]["content"] == "the rain"
    assert "cannot write `pipe`: nothing reads this pipe" in ran.err


@needs_bash
@needs_full
@pytest.mark.parametrize("measure", ["speed --prompt-tokens 8 --tokens 2 --runs 1 --model demo"])
def test_a_measurement_says_that_its_report_was_lost(tmp_path: Path, measure: str) -> None:
    ran = in_shell(tmp_path, f"edgeinfer bench {measure} > /dev/full")
    assert ran.code == 2
    assert "error: stdout cannot be written: No space left on device\nhint: " in ran.err


@pytest.mark.parametrize("measure", ["speed", "speculation", "quality", "serve"])
def test_a_report_without_a_place_is_refused_before_the_measurement(cli: Cli, measure: str) -> None:
    ran = cli("bench", measure, "--out", "none/report.md")
    assert ran.code == 2
    assert "error: cannot write `none/report.md`" in ran.err

"""The chat in a real terminal, driven through tmux."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import environment

TMUX = shutil.which("tmux")
pytestmark = pytest.mark.skipif(TMUX is None, reason="tmux is not installed: the terminal cannot be driven")
WAIT_S = 60.0  # a loaded machine with two cores; nothing here measures speed


class Terminal:
    """A separate tmux server with one window."""

    def __init__(self, folder: Path, command: str) -> None:
        self.tmux = [str(TMUX), "-S", str(folder / "tmux.sock"), "-f", "/dev/null"]
        home = folder / "home"
        home.mkdir()
        run = f"trap : INT; {command}; echo left with $?; sleep 600"  # Ctrl-C is for the chat, not for this shell
        subprocess.run(
            [*self.tmux, "new-session", "-d", "-x", "100", "-y", "40", "sh", "-c", run],
            env=environment(home),
            cwd=folder,
            check=True,
        )

    def type(self, text: str) -> None:
        self.send("-l", text)
        self.send("Enter")

    def send(self, *keys: str) -> None:
        subprocess.run([*self.tmux, "send-keys", *keys], check=True)

    def screen(self) -> str:
        shown = subprocess.run(
            [*self.tmux, "capture-pane", "-p", "-S", "-500"], capture_output=True, check=True, text=True
        )
        return shown.stdout

    def wait_for(self, text: str, times: int = 1) -> str:
        """The screen, once `text` appears on it this many times."""
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until:
            screen = self.screen()
            if screen.count(text) >= times:
                return screen
            time.sleep(0.05)
        raise AssertionError(f"{text!r} did not come {times} times; the screen:\n{self.screen()}")

    def say(self, what: str) -> str:
        """What tmux knows of the window, such as `#{scroll_region_lower}`."""
        told = subprocess.run([*self.tmux, "display", "-p", what], capture_output=True, check=True, text=True)
        return told.stdout.strip()

    def resize(self, columns: int, rows: int) -> None:
        subprocess.run([*self.tmux, "resize-window", "-x", str(columns), "-y", str(rows)], check=True)

    def close(self) -> None:
        subprocess.run([*self.tmux, "kill-server"], check=False, capture_output=True)


def one_core() -> str:
    """One engine thread, because spinning threads are slow where tests share cores."""
    return "taskset -c 0 " if shutil.which("taskset") else ""


@contextmanager
def running(folder: Path, command: str) -> Iterator[Terminal]:
    terminal = Terminal(folder, command)
    try:
        yield terminal
    finally:
        terminal.close()


CHAT = f"{one_core()}{sys.executable} -m edgeinfer chat --model demo --temp 0 --stats --speculation off"


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    with running(tmp_path, CHAT) as opened:
        yield opened


def test_a_chat_from_banner_to_bye(terminal: Terminal, tmp_path: Path) -> None:
    screen = terminal.wait_for(">>>")
    assert "This is a 46M-parameter demonstration" in screen
    assert "`edgeinfer chat` gets the best real model" in screen

    terminal.type("Hi")
    screen = terminal.wait_for("reused")
    answer = screen.partition(">>> Hi\n")[2].partition("\n")[0].strip()
    assert answer
    assert "window: " in terminal.wait_for("window: ")

    terminal.type('"""What can')
    terminal.wait_for("...")
    terminal.type('you do?"""')
    screen = terminal.wait_for("reused", times=2)
    assert "prompt" in screen
    assert " 0 reused" in screen
    assert screen.count(" 0 reused") == 1  # the second prompt found the first turn in the cache

    terminal.type("/save talk.json")
    terminal.wait_for("(saved 4 messages to talk.json)")
    messages = json.loads((tmp_path / "talk.json").read_text())["messages"]
    assert [message["content"] for message in messages[:3:2]] == ["Hi", "What can\nyou do?"]
    assert messages[1]["content"].startswith(answer[:20])

    terminal.type("/clear")
    terminal.wait_for("(a new conversation)")
    terminal.type("/load talk.json")
    terminal.wait_for("(loaded 4 messages)")
    terminal.type("/byee")
    terminal.wait_for("did you mean `/bye`?")
    terminal.type("/bye")
    terminal.wait_for("left with 0")


def test_ctrl_c_stops_the_answer_and_not_the_chat(terminal: Terminal) -> None:
    terminal.wait_for(">>>")
    terminal.type("/set max-tokens 100000")
    terminal.type("/set stop")
    terminal.type("Tell me a long story about a king, a queen, a dragon and a ship.")
    terminal.wait_for("ship.\n")
    terminal.wait_for("tokens/s, arm: none")  # the live line
    terminal.send("C-c")
    screen = terminal.wait_for("(stopped)")
    assert "Traceback" not in screen
    terminal.type("Hi")
    terminal.wait_for("reused", times=2)
    terminal.send("C-c")
    terminal.wait_for("(Ctrl-C again, Ctrl-D or /bye leaves)")
    terminal.send("C-c")
    terminal.wait_for("left with 0")


def test_ctrl_d_leaves_and_the_history_stays(terminal: Terminal, tmp_path: Path) -> None:
    terminal.wait_for(">>>")
    terminal.type("/show")
    terminal.wait_for("conversation    0 messages")
    terminal.send("Up")
    terminal.wait_for(">>> /show", times=2)
    terminal.send("C-u")
    terminal.send("C-d")
    terminal.wait_for("left with 0")
    assert "/show" in (tmp_path / "home" / ".local" / "state" / "edgeinfer" / "history").read_text()


WORDS = 250
LIVE = f"""
import time
from edgeinfer.cli.live_line import LiveLine
from edgeinfer.cli.streaming import Screen
from edgeinfer.decode.stats import AnswerStats, ArmStats
stats, live, screen = AnswerStats(arms={{"none": ArmStats()}}), LiveLine(), Screen(show_thinking=True, quiet=False)
for n in range({WORDS}):
    word = f"w{{n:03d}} " + "\\n" * (n % 90 == 89)
    stats.emitted = stats.arms["none"].rounds = n
    live.hide()
    screen.answer(word)
    live.draw(stats, word)
    time.sleep(0.02)
live.close()
screen.finish()
"""


def test_the_live_line_follows_the_size_of_the_window(tmp_path: Path) -> None:
    (tmp_path / "live.py").write_text(LIVE)
    with running(tmp_path, f"{sys.executable} live.py") as terminal:
        terminal.resize(60, 16)
        terminal.wait_for("w030")
        for columns, rows, word in ((45, 10, "w090"), (80, 24, "w150"), (33, 4, "w180"), (50, 12, "w220")):
            terminal.resize(columns, rows)
            terminal.wait_for(word)
            rows_shown = terminal.wait_for(" tokens/s, ").rstrip("\n").splitlines()
            assert " tokens/s, " in rows_shown[-1]
            assert "\n".join(rows_shown).count("tokens/s") == 1
        screen = terminal.wait_for("left with 0")
        assert re.findall(r"w\d+", screen) == [f"w{n:03d}" for n in range(WORDS)]
        assert "tokens/s" not in screen


def test_a_chat_that_is_killed_leaves_a_sane_terminal(tmp_path: Path) -> None:
    (tmp_path / "live.py").write_text(LIVE)
    with running(tmp_path, "PS1='$ ' bash --norc") as terminal:
        terminal.type(f"sh -c 'echo $$ > pid; exec {sys.executable} live.py'")
        terminal.wait_for("tokens/s, arm: none")
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        terminal.wait_for("Killed")
        assert terminal.say("#{scroll_region_upper} #{scroll_region_lower} #{cursor_flag}") == "0 39 1"
        terminal.type("seq 200 260")
        screen = terminal.wait_for("260\n$").rstrip("\n").splitlines()
        assert screen[-62:] == [*map(str, range(200, 261)), "$"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_puts_the_terminal_back_and_keeps_the_conversation(tmp_path: Path, number: signal.Signals) -> None:
    chat = f"sh -c 'echo $$ > pid; exec {CHAT} --max-tokens 100000'"
    with running(tmp_path, f"{chat}; echo ended with $?; stty -a; {CHAT}") as terminal:
        terminal.wait_for(">>>")
        terminal.type("Tell me a long story about a king, a queen, a dragon and a ship.")
        terminal.wait_for("tokens/s, arm: none")  # the live line
        os.kill(int((tmp_path / "pid").read_text()), number)
        screen = terminal.wait_for(f"ended with {128 + number}")
        assert "(the conversation is kept: /restore in the next chat continues it)" in screen
        screen = terminal.wait_for(">>>", times=2)
        assert terminal.say("#{scroll_region_upper} #{scroll_region_lower} #{cursor_flag}") == "0 39 1"
        assert re.search(r"[^-]icanon .*[^-]echo ", screen, re.DOTALL)
        assert ": /restore continues it)" in screen
        terminal.type("/restore")
        terminal.wait_for("(loaded 2 messages)")
        terminal.wait_for("(settings that differ: max-tokens was 100000, is 2048)")


def kept_in(chats: Path) -> list[Path]:
    """The files of chats. A chat that is still ending also has a lock or an unfinished file."""
    return list(chats.iterdir()) if chats.exists() else []


def test_a_window_that_is_closed_keeps_the_conversation(tmp_path: Path) -> None:
    with running(tmp_path, CHAT) as terminal:
        terminal.wait_for(">>>")
        terminal.type("Hi")
        terminal.wait_for("window: ")
    until = time.monotonic() + WAIT_S
    chats = tmp_path / "home" / ".local" / "state" / "edgeinfer" / "chats"
    while [file.suffix for file in kept_in(chats)] != [".json"] and time.monotonic() < until:
        time.sleep(0.05)
    (file,) = kept_in(chats)
    assert json.loads(file.read_text())["messages"][0] == {"role": "user", "content": "Hi"}


@pytest.mark.parametrize("command", [f"TERM=dumb {CHAT}", f"{CHAT} 2>log"], ids=["dumb", "stderr in a file"])
def test_a_terminal_without_an_editor_shows_a_prompt(tmp_path: Path, command: str) -> None:
    with running(tmp_path, command) as terminal:
        terminal.wait_for(">>>")
        terminal.type('"""Hi')
        terminal.wait_for("...")
        terminal.type('there"""')
        terminal.wait_for(">>>", times=2)
        terminal.type("/byee")
        terminal.wait_for(">>>", times=3)
        terminal.send("C-d")
        terminal.wait_for("left with 0")


def test_ctrl_z_gives_the_shell_the_whole_terminal(tmp_path: Path) -> None:
    (tmp_path / "live.py").write_text(LIVE)
    with running(tmp_path, "PS1='$ ' bash --norc") as terminal:
        terminal.type(f"{sys.executable} live.py")
        terminal.wait_for("tokens/s, arm: none")
        terminal.send("C-z")
        screen = terminal.wait_for("Stopped")
        assert "tokens/s" not in screen
        terminal.type("fg")
        terminal.wait_for("tokens/s, arm: none")
        screen = terminal.wait_for(f"w{WORDS - 1:03d}")
        after = re.findall(r"w\d+", screen)[-200:]  # at Ctrl-Z the kernel drops input that was not read yet
        assert after == [f"w{n:03d}" for n in range(WORDS - 200, WORDS)]

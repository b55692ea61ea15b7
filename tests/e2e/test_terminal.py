"""The chat in a real terminal, driven through tmux: what a person sees, types and interrupts."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import environment

TMUX = shutil.which("tmux")
pytestmark = pytest.mark.skipif(TMUX is None, reason="tmux is not installed: the terminal cannot be driven")
WAIT_S = 60.0  # a loaded machine with two cores; nothing here measures speed


class Terminal:
    """A tmux server of its own with one window."""

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
        """The screen, once `text` is on it so often."""
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until:
            screen = self.screen()
            if screen.count(text) >= times:
                return screen
            time.sleep(0.05)
        raise AssertionError(f"{text!r} did not come {times} times; the screen:\n{self.screen()}")

    def close(self) -> None:
        subprocess.run([*self.tmux, "kill-server"], check=False, capture_output=True)


def one_core() -> str:
    """One engine thread: threads that spin for each other are slow where tests share cores."""
    return "taskset -c 0 " if shutil.which("taskset") else ""


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    command = f"{one_core()}{sys.executable} -m edgeinfer chat --model demo --temp 0 --stats --speculation off"
    opened = Terminal(tmp_path, command)
    yield opened
    opened.close()


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

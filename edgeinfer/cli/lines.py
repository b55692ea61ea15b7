"""Where messages come from: a line editor with history on a terminal, plain lines from a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgeinfer.cli.output import whisper, write
from edgeinfer.errors import UsageError
from edgeinfer.paths import state_folder
from edgeinfer.text import decoded, utf_16_of

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import History

HUNG_UP = 129  # 128 + SIGHUP
FENCE = '"""'


class LineSource(Protocol):
    interactive: bool

    def read(self, prompt: str) -> str | None:
        """The next line without its end; None at the end of input. Ctrl-C is KeyboardInterrupt."""
        ...


class PlainLines:
    """Lines of stdin without an editor, from a pipe or from a terminal that cannot move its cursor. A line that is not
    text raises UsageError; the next one can be read.
    """

    def __init__(self) -> None:
        self.interactive = sys.stdin.isatty()
        self._utf_16: TextIOWrapper | None = None
        self._begun = self._failed = False

    def read(self, prompt: str) -> str | None:
        if self._failed:
            return None
        screen = next((stream for stream in (sys.stderr, sys.stdout) if stream.isatty()), None)
        if self.interactive and screen:
            write(screen, prompt)
        try:
            line = self._line()
        except OSError as error:
            self._failed = True
            raise UsageError(f"stdin cannot be read: {error.strerror}", hint="open it for reading") from error
        except UnicodeDecodeError as error:
            self._failed = True
            raise UsageError("stdin ends inside a character of UTF-16", hint="it may have been cut") from error
        return line.rstrip("\r\n") if line else None

    def _line(self) -> str:
        stdin = sys.stdin.buffer
        start = b""
        if not self._begun:
            self._begun = True
            start = stdin.read(1)
            if not start:
                return ""
            if start in (b"\xff", b"\xfe"):  # UTF-8 never begins with these bytes; both byte order marks of UTF-16 do
                start += stdin.read(1)
            if codec := utf_16_of(start):
                self._utf_16 = TextIOWrapper(stdin, encoding=codec, errors="surrogatepass", newline="\n")
        if self._utf_16:
            return self._utf_16.readline()
        line = start if start == b"\n" else start + stdin.readline()
        return decoded(line, name="stdin")


class EditedLines:
    """A line editor on stderr, so that stdout holds only answers."""

    interactive = True

    def __init__(self) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.output import create_output

        self._session: PromptSession[str] = PromptSession(history=history(), output=create_output(stdout=sys.stderr))

    def read(self, prompt: str) -> str | None:
        try:
            return self._session.prompt(prompt)
        except EOFError:
            if not sys.stdin.isatty():  # the window was closed, and SIGHUP is on its way
                raise SystemExit(HUNG_UP) from None
            return None


def line_source() -> LineSource:
    if sys.stdin.isatty() and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return EditedLines()
    return PlainLines()


def history_file() -> Path | None:
    folder = state_folder()
    return folder / "history" if folder else None


def history() -> History:
    """The lines of earlier chats, or of this chat only when the file cannot be written."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    file = history_file()
    if file is None:
        return InMemoryHistory()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        with file.open("ab"):
            pass
    except OSError as error:
        whisper(f"(no history: cannot write {file}: {error.strerror})")
        return InMemoryHistory()
    return FileHistory(str(file))


def messages(source: LineSource) -> Iterator[str]:
    """Whole messages: a line, or the lines between two `\"\"\"`. Empty ones are skipped."""
    while (line := source.read(">>> ")) is not None:
        text = line.strip()
        if text.startswith(FENCE):
            text = fenced(text.removeprefix(FENCE), source)
        if text:
            yield text


def fenced(first: str, source: LineSource) -> str:
    lines: list[str] = []
    line: str | None = first
    while line is not None:
        if line.rstrip().endswith(FENCE):
            lines.append(line.rstrip().removesuffix(FENCE))
            return "\n".join(lines).strip("\n")
        lines.append(line)
        line = source.read("... ")
    raise UsageError(f"a message that began with {FENCE} never ended, and was not sent", hint=f"end it with {FENCE}")

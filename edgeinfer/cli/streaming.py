"""Prints an answer while it is written: text on stdout, reasoning and the live line on stderr. Handles Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from edgeinfer.cli.live_line import LiveLine
from edgeinfer.cli.output import DIM, RESET, colored, whisper, write
from edgeinfer.cli.stats_lines import stats_lines
from edgeinfer.text import shown

if TYPE_CHECKING:
    from edgeinfer.cli.settings import Settings
    from edgeinfer.decode.stats import AnswerStats
    from edgeinfer.runner.answer import Answer, AnswerStream
    from edgeinfer.window import WindowPolicy


PATIENCE_S = 3.0  # before the note appears


class Interrupt:
    """The first Ctrl-C stops the answer between two rounds; the second one is a KeyboardInterrupt."""

    def __init__(self) -> None:
        self._received = False
        self._stream: AnswerStream | None = None

    def __call__(self, *_: object) -> None:
        if self._received:
            raise KeyboardInterrupt
        self._received = True
        if self._stream:
            self._stream.stop()

    def stops(self, stream: AnswerStream) -> None:
        self._stream = stream
        if self._received:
            stream.stop()


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    interrupt = Interrupt()
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)


class Screen:
    """Writes the answer on stdout and the reasoning on stderr, on lines of their own."""

    def __init__(self, *, show_thinking: bool, quiet: bool) -> None:
        self._show_thinking = show_thinking
        self._quiet = quiet  # the caller prints the answer
        self._in_thinking = False
        self._last = "\n"

    def answer(self, text: str) -> None:
        self._leave_thinking()
        if self._quiet:
            return
        write(sys.stdout, shown(text) if sys.stdout.isatty() else text)
        self._last = text[-1]

    def thinking(self, text: str) -> None:
        if not self._show_thinking:
            return
        dim, reset = (DIM, RESET) if colored(sys.stderr) else ("", "")
        write(sys.stderr, f"{dim}{shown(text)}{reset}")
        self._in_thinking = True

    def finish(self) -> None:
        self._leave_thinking()
        if self._last != "\n":
            write(sys.stdout, "\n")

    def _leave_thinking(self) -> None:
        if self._in_thinking:
            write(sys.stderr, "\n\n")
            self._in_thinking = False


@contextmanager
def patience(stream: AnswerStream) -> Iterator[Callable[[], None]]:
    """Say once on a terminal that a long prompt is being read. The value is called when the answer has begun."""

    def say() -> None:
        n_new = stream.stats.prompt - stream.stats.reused
        whisper(f"(reading {n_new:,} tokens)" if n_new > 0 else "(reading)")

    timer = threading.Timer(PATIENCE_S, say)
    timer.daemon = True
    if colored(sys.stderr):
        timer.start()

    def begun() -> None:
        timer.cancel()
        if timer.is_alive():
            timer.join()  # the note is removed before the answer

    try:
        yield begun
    finally:
        timer.cancel()


def print_answer(
    begin: Callable[[], AnswerStream],
    settings: Settings,
    *,
    quiet: bool = False,
    progress: Callable[[AnswerStream], None] = lambda _: None,
) -> Answer:
    """Print an answer as it arrives, and call `progress` after each piece.

    Raises what `begin` raises, KeyboardInterrupt for two Ctrl-C.
    """
    screen = Screen(show_thinking=settings.thinking, quiet=quiet)
    with interruptible() as interrupt:
        live = LiveLine() if settings.stats else None
        try:
            stream = begin()
            interrupt.stops(stream)
            with closing(stream), patience(stream) as begun:
                for segment in stream.segments():
                    begun()
                    progress(stream)
                    if live:
                        live.hide()
                    if segment.thinking:
                        screen.thinking(segment.text)
                        continue
                    screen.answer(segment.text)
                    if live:
                        live.draw(stream.stats, segment.text)
        finally:
            if live:
                live.close()
            screen.finish()
    return stream.answer


def window_news(stats: AnswerStats, window: WindowPolicy) -> dict[str, str]:
    """Notices about what left the window during an answer, by the name of the count in `stats`."""
    news = {}
    if stats.evicted:
        news["evicted"] = (
            f"(the window of {window.slots} tokens is full: from now on the oldest messages leave it, "
            f"the first {window.sink} tokens stay; a larger --context keeps more)"
        )
    if stats.reanchored:
        news["reanchored"] = (
            f"(the model's {window.limit} positions are used up: the chat continues with the system prompt "
            f"and the newest {window.window // 2} tokens; older ones are forgotten)"
        )
    return news


def say_what_happened(stats: AnswerStats, settings: Settings) -> None:
    """Say that an answer was cut short and, with `--stats`, its counts."""
    if stats.finish == "length":
        whisper(f"(stopped at --max-tokens {settings.max_tokens})")
    if settings.stats:
        for line in stats_lines(stats):
            whisper(line)

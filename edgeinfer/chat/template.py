"""The chat template: messages to the text that a model was trained on, rendered in a separate process."""

from __future__ import annotations

import contextlib
import copy
import datetime
import hashlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from edgeinfer.errors import ArtifactError, EngineError, UsageError
from edgeinfer.formats.chat_pieces import DATE_MARKS
from edgeinfer.types import Message

CPU_S = 2.0  # for one render
CPU_S_PER_MESSAGE = 0.01  # more for a long conversation: some templates look back from every message
PROBE_CPU_S = 0.5  # for a render that only serves to learn about the template
WALL_S = 20.0  # the child's own limit is processor time; this one ends a child that only waits
REPLY_BYTES = 128 * 1024 * 1024  # the child's limit in characters, each at most six bytes in JSON
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The fallback for a file without a template: most such models were trained on it."""


_SHORT_IDS = re.compile(r"id\s*\|\s*length\s*!=\s*9")
_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")
_DATE = "%Y-%m-%d"  # without a time, so that a conversation's text stays the same


class RenderError(Exception):
    """`kind` is "raised" (by the template itself), "failed", "refused", "syntax", "limit" or "ended"."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Dialect:
    """What templates expect in more than one form.

    `text_arguments`: those of a call as JSON text, not as an object.
    `empty_lists`: a list of no tools in place of None, and the tools under their older names too.
    `typed_content`: a list of `{"type": "text", "text": ...}`, which templates of models that see pictures read.
    """

    text_arguments: bool = False
    empty_lists: bool = False
    typed_content: bool = False


USUAL_DIALECT = Dialect()
PROBED = Message("user", "qaskx")


class Renderer:
    """The child process that renders. It starts at once, so that it is ready when a model is. Raises RenderError."""

    def __init__(self) -> None:
        self._source: str | None = None
        self._child: subprocess.Popen[bytes] | None = start_child()

    def compile(self, source: str) -> None:
        """Use `source` as the template from now on."""
        self._ask({"template": source}, CPU_S)
        self._source = source

    def render(self, request: Mapping[str, Any], cpu_s: float) -> str:
        """The text. After `cpu_s` seconds of processor time the child is ended; a new one takes the next request."""
        if self._child is None and self._source is not None:
            self.compile(self._source)
        text: str = self._ask(request, cpu_s)["text"]
        return text

    def close(self) -> None:
        """End the process. A later request starts a new one."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        for stream in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
        child.wait()

    def _ask(self, request: Mapping[str, Any], cpu_s: float) -> dict[str, Any]:
        self._child = child = self._child or start_child()
        assert child.stdin is not None and child.stdout is not None
        timer = threading.Timer(max(WALL_S, 4 * cpu_s), child.kill)
        timer.daemon = True
        timer.start()
        try:
            data = json.dumps({**request, "cpu_s": cpu_s}).encode("ascii") + b"\n"
            line = exchange(child.stdin, child.stdout, data)
        except BaseException:
            self.close()  # a late reply must not answer the next question
            raise
        finally:
            timer.cancel()
        if not line.endswith(b"\n"):
            self.close()
            raise RenderError("ended", "it takes too long, or too much memory")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise RenderError(reply["error"], one_line(reply["message"]))
        return reply


class Template:
    """A template with the words that a model adds to it.

    Raises ArtifactError for one that cannot be used, or UsageError, which names it, for the user's own `file`.
    """

    def __init__(self, renderer: Renderer, source: str, *, bos: str = "", eos: str = "", file: str = "") -> None:
        self.source = source
        self._renderer = renderer
        self._bos, self._eos = bos, eos
        self._file = file
        self._date_forms = False
        self._has_short_ids = bool(_SHORT_IDS.search(source))
        self._dialect = USUAL_DIALECT
        try:
            renderer.compile(source)
        except RenderError as error:
            raise self._public(error) from error
        self._learn_typed_content()

    def _learn_typed_content(self) -> None:
        """Give parts to a template that leaves a question out which is plain text."""
        text = self.probe((PROBED,))
        if text is None or PROBED.content in text:
            return
        before, self._dialect = self._dialect, replace(self._dialect, typed_content=True)
        if PROBED.content not in (self.probe((PROBED,)) or ""):
            self._dialect = before

    def render(self, messages: Sequence[Message], variables: Mapping[str, Any] | None = None) -> str:
        """The text of the conversation with the opening of the next answer; the BOS text first, once.

        Raises UsageError when the template itself refuses the messages.
        """
        try:
            return self._render(
                messages, variables or {}, opening=True, cpu_s=CPU_S + CPU_S_PER_MESSAGE * len(messages)
            )
        except RenderError as error:
            raise self._public(error) from error

    def with_date_forms(self) -> Template:
        """This template, writing the form of a date between DATE_MARKS instead of the date."""
        other = copy.copy(self)
        other._date_forms = True
        return other

    def probe(
        self, messages: Sequence[Message], variables: Mapping[str, Any] | None = None, *, opening: bool = True
    ) -> str | None:
        """As `render`, to learn about the template: None where it refuses, fails or takes too long."""
        try:
            return self._render(messages, variables or {}, opening=opening, cpu_s=PROBE_CPU_S)
        except RenderError:
            return None

    def _render(self, messages: Sequence[Message], variables: Mapping[str, Any], *, opening: bool, cpu_s: float) -> str:
        """In the dialect of the last render, or in the first other one that works."""

        def rendered(dialect: Dialect) -> str:
            request = {
                "messages": [self._as_read(message, dialect) for message in messages],
                "opening": opening,
                "date_marks": DATE_MARKS if self._date_forms else None,
                "variables": self._variables(variables, dialect),
            }
            text = self._renderer.render(request, cpu_s)
            return text if text.startswith(self._bos) else self._bos + text

        try:
            return rendered(self._dialect)
        except RenderError as error:
            calls_tools = any(message.tool_calls for message in messages)
            for other in dialects(calls_tools=calls_tools, failed=error.kind == "failed"):
                if other != self._dialect:
                    with contextlib.suppress(RenderError):
                        text = rendered(other)
                        self._dialect = other
                        return text
            raise

    def _variables(self, variables: Mapping[str, Any], dialect: Dialect) -> dict[str, Any]:
        known = {"bos_token": self._bos, "eos_token": self._eos, "tools": None, "documents": None, **variables}
        if not dialect.empty_lists:
            return known
        tools = known["tools"] or []
        date = _DATE.join(DATE_MARKS) if self._date_forms else datetime.date.today().strftime(_DATE)
        functions = json.dumps([tool["function"] for tool in tools], ensure_ascii=False, indent=4)
        return {
            **known,
            "tools": tools,
            "documents": known["documents"] or [],
            "functions": functions,
            "datetime": date,
        }

    def _as_read(self, message: Message, dialect: Dialect) -> dict[str, Any]:
        if self._has_short_ids:
            calls = tuple(replace(call, id=short_id(call.id)) for call in message.tool_calls)
            message = replace(message, tool_calls=calls, call_id=short_id(message.call_id) if message.call_id else "")
        read = as_template_reads(message, text_arguments=dialect.text_arguments)
        return {**read, "content": [{"type": "text", "text": message.content}]} if dialect.typed_content else read

    def _public(self, error: RenderError) -> ArtifactError | UsageError:
        title = f"the template `{self._file}`" if self._file else "the model's chat template"
        if error.kind == "raised":
            return UsageError(f"{title} refuses this conversation: {error}")
        kind = UsageError if self._file else ArtifactError
        return kind(f"{title} cannot be used: {error}", hint="`--template chatml` uses a plain one instead")


def dialects(*, calls_tools: bool, failed: bool) -> Iterator[Dialect]:
    """Those that may help where a render raised an error: what a template fails on is another matter than what it
    refuses."""
    both, usual = (False, True), (False,)
    for typed_content in both if failed else usual:
        for empty_lists in both if failed else usual:
            for text_arguments in both if calls_tools else usual:
                yield Dialect(text_arguments, empty_lists, typed_content)


def short_id(call_id: str) -> str:
    """Nine letters and digits, which Mistral's templates want; clients send longer ones."""
    return call_id if _SHORT_ID.fullmatch(call_id) else hashlib.sha256(call_id.encode()).hexdigest()[:9]


def as_template_reads(message: Message, *, text_arguments: bool = False) -> dict[str, Any]:
    """The names that the templates of the Hub know."""
    read: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        read["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": call.name,
                    "arguments": call.arguments if text_arguments else json.loads(call.arguments),
                },
            }
            for call in message.tool_calls
        ]
    if message.reasoning:
        read |= dict.fromkeys(("reasoning_content", "reasoning", "thinking"), message.reasoning)
    if message.role == "tool":
        read |= {"name": message.name, "tool_call_id": message.call_id}
    return read


def start_child() -> subprocess.Popen[bytes]:
    script = Path(__file__).with_name("render_child.py")
    try:
        return subprocess.Popen(
            [sys.executable, "-P", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C in the terminal is for the parent alone
        )
    except OSError as error:
        raise EngineError(f"cannot start the template renderer: {error.strerror}") from error


def exchange(stdin: IO[bytes], stdout: IO[bytes], request: bytes) -> bytes:
    """The reply's line; b"" from a child that has ended."""
    try:
        stdin.write(request)
        stdin.flush()
        return stdout.readline(REPLY_BYTES)
    except (BrokenPipeError, OSError):
        return b""


def one_line(text: str) -> str:
    return " ".join(text.split())[:300]

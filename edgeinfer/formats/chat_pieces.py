"""What a chat template writes around messages, as data: a phone writes conversations with it, without Jinja.

A text between U+FDD2 and U+FDD3 in a piece is a form of `strftime`, and stands for the date of the day.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from edgeinfer.formats.tables import Table
from edgeinfer.types import Message, Role

__all__ = ["ChatPieces", "Frame", "Lead", "Pieces", "ThinkingCut", "TraceFormat", "chat_fields", "read_chat", "text_of"]

DATE_MARKS: Final = ("\ufdd2", "\ufdd3")  # noncharacters of Unicode: no text needs them
Strips = Literal["nothing", "newlines", "space"]
STRIPPED: Final[Mapping[Strips, str | None]] = {
    "nothing": "",
    "newlines": "\n",
    "space": None,
}  # arguments of `str.lstrip`
ROLES: Final = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class TraceFormat:
    """`opening` begins a trace, and any of `closings` ends it; the first of them is written to end one early.

    `before_answer` are marks that may stand before the answer and are no part of it.
    """

    opening: str
    closings: tuple[str, ...]
    before_answer: tuple[str, ...] = ()

    @property
    def ending(self) -> str:
        """What is written to end a trace early."""
        is_tag = "<|" not in self.closings[0]
        return f"\n{self.closings[0]}\n\n" if is_tag else self.closings[0]

    @property
    def marks(self) -> str:
        """All of them, one after the other."""
        return "".join((self.opening, *self.closings, *self.before_answer))


@dataclass(frozen=True, slots=True)
class Frame:
    before: str
    after: str

    def places(self, text: str, content: str, start: int) -> tuple[int, int] | None:
        """Where the first message with this content begins and ends in `text`, from `start` on."""
        for written in dict.fromkeys((content, content.strip())):
            whole = self.before + written + self.after
            if (at := text.find(whole, start)) >= 0:
                return at, at + len(whole)
        return None


@dataclass(frozen=True, slots=True)
class Lead:
    """What comes before the first question: `before` and `after` a system prompt, and `question`, which opens it."""

    before: str
    after: str
    question: str


@dataclass(frozen=True, slots=True)
class ThinkingCut:
    """Of an earlier answer, what stands after the last `closing` is written, without what is stripped at its start."""

    closing: str
    strips: Strips


@dataclass(frozen=True, slots=True)
class Pieces:
    """A conversation is a lead, the messages in the frames of their roles, and the opening of the next answer.

    Questions and answers alternate. `plain` is the lead without a system prompt. Where `system` is None, the system
    prompt and an empty line are put before the first question. `stripped` are the roles whose contents are written
    without white space at their ends. `stops` are texts that end an answer, `begun` the trace that `opening` begins.
    """

    plain: Lead
    system: Lead | None
    user: Frame
    assistant: Frame
    opening: str
    stripped: tuple[Role, ...] = ()
    cut: ThinkingCut | None = None
    stops: tuple[str, ...] = ()
    begun: TraceFormat | None = None


@dataclass(frozen=True, slots=True)
class ChatPieces:
    """`words` are tokens that every text is searched for; in a message they stay text. `no_thinking`: no reasoning."""

    words: tuple[str, ...]
    traces: tuple[TraceFormat, ...]
    thinking: Pieces
    no_thinking: Pieces


def text_of(pieces: Pieces, messages: Sequence[Message]) -> str:
    """The conversation with the opening of the next answer."""
    system, turns = (messages[0], messages[1:]) if messages[0].role == "system" else (None, messages)
    lead = pieces.plain
    parts = [lead.before]
    if system is not None and pieces.system is None:
        turns = [replace(turns[0], content=f"{system.content}\n\n{turns[0].content}"), *turns[1:]]
    elif system is not None and pieces.system is not None:
        lead = pieces.system
        parts = [lead.before, shown(pieces, system), lead.after]
    for index, message in enumerate(turns):
        frame = pieces.user if message.role == "user" else pieces.assistant
        parts += [frame.before if index else lead.question, shown(pieces, message), frame.after]
    return "".join([*parts, pieces.opening])


def shown(pieces: Pieces, message: Message) -> str:
    content, cut = message.content, pieces.cut
    if message.role == "assistant" and cut is not None and cut.closing in content:
        content = content.rpartition(cut.closing)[2].lstrip(STRIPPED[cut.strips])
    return content.strip() if message.role in pieces.stripped else content


def chat_fields(chat: ChatPieces) -> dict[str, Any]:
    """For JSON."""
    return asdict(chat)


def read_chat(table: Table) -> ChatPieces:
    """Raises UsageError or ValueError for what is no ChatPieces."""
    if "traces" not in table:
        raise ValueError("`traces` is missing")
    chat = ChatPieces(
        words=tuple(table.texts("words")),
        traces=tuple(map(_trace, table.tables("traces"))),
        thinking=_pieces(table.table("thinking")),
        no_thinking=_pieces(table.table("no_thinking")),
    )
    table.done()
    return chat


def _pieces(table: Table) -> Pieces:
    stripped = table.texts("stripped")
    if unknown := [role for role in stripped if role not in ROLES]:
        raise ValueError(f"`stripped` names {unknown[0][:40]!r}, which is no role")
    pieces = Pieces(
        plain=_lead(table.table("plain")),
        system=None if (system := table.nullable("system")) is None else _lead(system),
        user=_frame(table.table("user")),
        assistant=_frame(table.table("assistant")),
        opening=table.text("opening"),
        stripped=tuple(stripped),  # type: ignore[arg-type]  # checked above
        cut=None if (cut := table.nullable("cut")) is None else _cut(cut),
        stops=tuple(table.texts("stops")),
        begun=None if (begun := table.nullable("begun")) is None else _trace(begun),
    )
    table.done()
    return pieces


def _lead(table: Table) -> Lead:
    lead = Lead(table.text("before"), table.text("after"), table.text("question"))
    table.done()
    return lead


def _frame(table: Table) -> Frame:
    frame = Frame(table.text("before"), table.text("after"))
    table.done()
    return frame


def _cut(table: Table) -> ThinkingCut:
    strips = table.text("strips")
    if strips not in STRIPPED:
        raise ValueError(f"`strips` is {strips[:40]!r}; expected {', '.join(STRIPPED)}")
    cut = ThinkingCut(table.text("closing"), strips)  # type: ignore[arg-type]  # checked above
    table.done()
    return cut


def _trace(table: Table) -> TraceFormat:
    trace = TraceFormat(table.text("opening"), tuple(table.texts("closings")), tuple(table.texts("before_answer")))
    table.done()
    if not trace.closings:
        raise ValueError("`closings` is empty")
    return trace

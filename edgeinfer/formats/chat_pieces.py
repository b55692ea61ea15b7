"""What a chat template writes around messages, as data: a phone writes conversations with it, without Jinja.

A text between U+FDD2 and U+FDD3 in a piece is a form of `strftime`, and stands for the date of the day.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

from edgeinfer.formats.tables import Table
from edgeinfer.types import Role

__all__ = [
    "DATE_MARKS",
    "ROLES",
    "ChatPieces",
    "Frame",
    "Lead",
    "Pieces",
    "Strips",
    "ThinkingCut",
    "TraceFormat",
    "chat_fields",
    "read_chat",
    "token_ids",
]

DATE_MARKS: Final = ("\ufdd2", "\ufdd3")  # noncharacters of Unicode, which no text needs
Strips: TypeAlias = Literal["nothing", "newlines", "space"]
"""What is taken from the start of a text."""
EarlierTrace: TypeAlias = Literal["kept"] | Strips
"""What becomes of reasoning that an earlier answer begins with: kept, or dropped and the rest stripped."""
_EARLIER_TRACES: Final = ("kept", *get_args(Strips))
ROLES: Final[tuple[Role, ...]] = ("system", "user", "assistant")


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
    without white space at their ends. An answer may begin with one of `traces`; `opening` begins the one in `begun`.
    `stops` and `stop_tokens` end an answer.
    """

    plain: Lead
    system: Lead | None
    user: Frame
    assistant: Frame
    opening: str
    stripped: tuple[Role, ...] = ()
    earlier_trace: EarlierTrace = "kept"
    cut: ThinkingCut | None = None
    traces: tuple[TraceFormat, ...] = ()
    begun: TraceFormat | None = None
    stops: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ChatPieces:
    """`words` are tokens that every text is searched for; in a message they stay text. `no_thinking`: no reasoning."""

    words: tuple[str, ...]
    thinking: Pieces
    no_thinking: Pieces


def chat_fields(chat: ChatPieces) -> dict[str, Any]:
    """For JSON."""
    return asdict(chat)


def read_chat(table: Table) -> ChatPieces:
    """Raises UsageError or ValueError for anything but ChatPieces."""
    chat = ChatPieces(
        words=tuple(table.texts("words")),
        thinking=_pieces(table.table("thinking")),
        no_thinking=_pieces(table.table("no_thinking")),
    )
    table.done()
    return chat


def _pieces(table: Table) -> Pieces:
    stripped = table.texts("stripped")
    if unknown := [role for role in stripped if role not in ROLES]:
        raise ValueError(f"`stripped` names {unknown[0][:40]!r}, which is no role")
    earlier_trace = table.text("earlier_trace")
    if earlier_trace not in _EARLIER_TRACES:
        raise ValueError(f"`earlier_trace` is {earlier_trace[:40]!r}; expected {', '.join(_EARLIER_TRACES)}")
    if "traces" not in table:
        raise ValueError("`traces` is missing")
    pieces = Pieces(
        plain=_lead(table.table("plain")),
        system=None if (system := table.nullable("system")) is None else _lead(system),
        user=_frame(table.table("user")),
        assistant=_frame(table.table("assistant")),
        opening=table.text("opening"),
        stripped=tuple(stripped),  # type: ignore[arg-type]  # checked above
        cut=None if (cut := table.nullable("cut")) is None else _cut(cut),
        earlier_trace=earlier_trace,  # type: ignore[arg-type]  # checked above
        traces=tuple(map(_trace, table.tables("traces"))),
        begun=None if (begun := table.nullable("begun")) is None else _trace(begun),
        stops=tuple(table.texts("stops")),
        stop_tokens=token_ids(table, "stop_tokens"),
    )
    table.done()
    return pieces


def token_ids(table: Table, key: str) -> tuple[int, ...]:
    values = table.integers(key)
    if not all(0 <= value < 1 << 31 for value in values):
        raise ValueError(f"`{key}` holds something that is not a token id")
    return tuple(values)


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
    if strips not in get_args(Strips):
        raise ValueError(f"`strips` is {strips[:40]!r}; expected {', '.join(get_args(Strips))}")
    cut = ThinkingCut(table.text("closing"), strips)  # type: ignore[arg-type]  # checked above
    table.done()
    return cut


def _trace(table: Table) -> TraceFormat:
    trace = TraceFormat(table.text("opening"), tuple(table.texts("closings")), tuple(table.texts("before_answer")))
    table.done()
    if not trace.closings:
        raise ValueError("`closings` is empty")
    return trace

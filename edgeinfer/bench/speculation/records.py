"""The records of a run, one JSON object per line, so that an interrupted run can be resumed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from edgeinfer.bench.report import commit
from edgeinfer.decode.policy.costs import RowCosts
from edgeinfer.errors import UsageError
from edgeinfer.named_files import read_text

PLAIN: Final = "plain"  # the whole model, speculation off
CONTROL: Final = "plain again"  # plain decoding a second time: shows how much equal runs differ
LARGE: Final = 500_000_000  # parameters; a larger model counts as of the 1B shape


@dataclass(frozen=True, slots=True)
class Subject:
    """The model that was run."""

    model: str
    tier: str
    n_params: int


@dataclass(frozen=True, slots=True)
class Record:
    """One answer. `tokens` and `seconds` leave out the first token, which the prefill makes."""

    subject: Subject
    temperature: float
    run: int
    prompt: int  # its place in the prompts file
    kind: str
    arm: str
    order: int  # 0 for the arm whose first token came first
    tokens: int
    seconds: float
    first_token_s: float
    drafted: int
    accepted: int
    digest: str  # of the answer's token ids
    load: float  # load average of a minute, at the end
    arms: Mapping[str, tuple[int, int, float]]  # by drafter: rounds, tokens, seconds
    text: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())  # ids of prompt and answer; of plain greedy answers

    @property
    def key(self) -> tuple[Subject, float, int, int, str]:
        return (self.subject, self.temperature, self.run, self.prompt, self.arm)


@dataclass(frozen=True, slots=True)
class Run:
    """A start of the bench: the records that follow were measured at this commit."""

    commit: str


@dataclass(frozen=True, slots=True)
class Measured:
    """Costs of rounds before the run, and the most rows of a round."""

    subject: Subject
    costs: RowCosts
    max_rows: int


Item: TypeAlias = Record | Measured | Run
_MAX_LOG_BYTES: Final = 1 << 30
_WHAT: Final = {Record: "answer", Measured: "costs", Run: "run"}


@dataclass(slots=True)
class Log:
    """Everything measured so far."""

    records: list[Record] = field(default_factory=list)
    costs: dict[Subject, Measured] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)  # that measured it

    def latest(self) -> dict[tuple[Subject, float, int, int, str], Record]:
        """The newest record of each key: a repeated run counts once."""
        return {record.key: record for record in self.records}

    def add(self, item: Item) -> None:
        if isinstance(item, Record):
            self.records.append(item)
        elif isinstance(item, Run):
            self.commits.append(item.commit)
        else:
            self.costs[item.subject] = item


class LogFile:
    """A Log that is also appended to a file, line by line, the commit first. Without a path it is kept in memory."""

    def __init__(self, path: Path | None) -> None:
        self.log = Log()
        self._path = path
        self._begun = False
        if path is not None and path.exists():
            if not path.is_file():
                raise UsageError(f"the log `{path}` is not a file", hint="name a file: a run resumes from it")
            for item in read(path):
                self.log.add(item)
            _drop_cut_line(path)

    def add(self, item: Item) -> None:
        if not self._begun:
            self._begun = True
            self.add(Run(commit()))
        self.log.add(item)
        if self._path is None:
            return
        line = {"what": _WHAT[type(item)], **asdict(item)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _drop_cut_line(path: Path) -> None:
    """Make sure that the next record begins on a new line."""
    data = path.read_bytes()
    if not data.endswith(b"\n"):
        path.write_bytes(data[: data.rfind(b"\n") + 1])


def read(path: Path) -> Iterator[Item]:
    """Raises UsageError for a file that is not such a log. An incomplete last line is left out."""
    lines = read_text(path, title=f"the log `{path}`", most_bytes=_MAX_LOG_BYTES).splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            yield _item(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                return
            raise UsageError(f"{path}, line {number}: not a record of this bench", hint="name another file") from error


def _item(line: dict[str, Any]) -> Item:
    what = line.pop("what")
    if what == "run":
        return Run(line["commit"])
    subject = Subject(**line.pop("subject"))
    if what == "costs":
        costs = {name: _by_rows(value) for name, value in line["costs"].items()}
        return Measured(subject, RowCosts(**costs), line.get("max_rows", 16))
    line["arms"] = {name: tuple(counts) for name, counts in line["arms"].items()}
    line["text"] = tuple(tuple(ids) for ids in line["text"])
    return Record(subject, **line)


def _by_rows(value: Any) -> Any:
    return {int(rows): seconds for rows, seconds in value.items()} if isinstance(value, dict) else value


def subjects(records: Iterable[Record]) -> list[Subject]:
    """In the order in which they were measured."""
    return list(dict.fromkeys(record.subject for record in records))

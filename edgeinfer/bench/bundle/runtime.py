"""The phone runtime as an app sees it: `edgeinfer-run` with a bundle, timed by its own statistics."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Self

from edgeinfer.bench.bundle.programs import filler
from edgeinfer.bench.speculation.measure import Task, first_of_each, read_prompts
from edgeinfer.bench.statistics import Pair, Speedup, speedup
from edgeinfer.errors import EngineError
from edgeinfer.types import Tokens

_CONTEXT = 2048  # positions; blocks of 256, so that chunks of 128 stay whole, and nothing is evicted
_TRIES = 50  # prompts, until one has an answer that is long enough
FIRST_PROMPT = 20  # tokens
_OPENINGS = 5
_PER_KIND = 6  # prompts of each kind that are answered with drafts and without
_ANSWER = 64  # tokens


@dataclass(frozen=True, slots=True)
class Runtime:
    """`edgeinfer-run`, a bundle, and the folder for packed weights and measured costs."""

    program: Path
    bundle: Path
    cache: Path

    def command(self, n_threads: int, *more: str) -> list[str]:
        usual = ["--threads", str(n_threads), "--cache", str(self.cache), "--temp", "0", "--stats"]
        return [str(self.program), str(self.bundle), *usual, *more]


class Session:
    """One conversation that takes prompts of token ids, without drafts. Use as a context manager.

    Raises EngineError with what `edgeinfer-run` says when it ends.
    """

    def __init__(self, runtime: Runtime, n_threads: int, n_decoded: int = 8) -> None:
        """Each answer has `n_decoded` tokens after the first one, where the model does not end it."""
        more = ["--tokens", "-", "--draft", "off", "--max-tokens", str(n_decoded + 1)]
        command = runtime.command(n_threads, *more, "--context", str(_CONTEXT), "--sink", "0")
        self._process = _started(command)
        self._n_asked = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def answer(self, prompt: Tokens) -> dict[str, float]:
        """The statistics of the answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(",".join(map(str, prompt)) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # why it ended is read next
        return _read_stats(self._process)

    def seconds(self, n_tokens: int, start: int, *, times: int = 1) -> float:
        """See measure.Timed: the prefill of a chunk, or the mean of `times` rounds."""
        for _ in range(_TRIES):
            stats = self.answer(self._prompt(n_tokens, start))
            if n_tokens > 1:
                return stats["prefill_s"]
            if stats["rounds"] >= times:
                return stats["decode_s"] / stats["rounds"]
        raise EngineError(f"{_TRIES} answers of the model end before {times} tokens")

    def _prompt(self, n_tokens: int, start: int) -> list[int]:
        """All but `n_tokens` of it are in the cache from the prompt before, when that began at the same position.

        A decoded token is at `start` and after it, so that the prompt ends there with one new token.
        """
        new = start if n_tokens > 1 else start - 1
        prompt = filler(new + n_tokens)
        self._n_asked += 1
        prompt[new] = self._n_asked % 250
        return prompt

    def memory(self) -> tuple[int, int]:
        """Resident and dirty bytes of the process."""
        sizes = {}
        for line in Path(f"/proc/{self._process.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]:
            name, size, _ = line.split()
            sizes[name] = int(size) * 1024
        return sizes["Rss:"], sizes["Private_Dirty:"] + sizes["Shared_Dirty:"]


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds from the start of opening, weights packed already: medians."""

    opened_s: float
    first_token_s: float  # of a prompt of `FIRST_PROMPT` tokens


def start(runtime: Runtime, n_threads: int) -> Start:
    found = []
    for _ in range(_OPENINGS + 1):
        with Session(runtime, n_threads, 0) as session:
            found.append(session.answer(filler(FIRST_PROMPT)))
    return Start(
        median(stats["open_s"] for stats in found[1:]),  # the first may pack them
        median(stats["open_s"] + stats["first_token_s"] for stats in found[1:]),
    )


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes of the process with one session in use, and what `edgeinfer_estimate` says of it."""

    resident: int
    dirty: int
    estimated_resident: int
    estimated_dirty: int


def memory_use(runtime: Runtime) -> MemoryUse | None:
    """None where the system does not tell (it does on Linux)."""
    if sys.platform != "linux":
        return None
    with Session(runtime, 1) as session:
        session.answer(filler(200))
        resident, dirty = session.memory()
    asked = runtime.command(1, "--memory", "--draft", "off", "--context", str(_CONTEXT), "--sink", "0")
    estimated = json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
    return MemoryUse(resident, dirty, estimated["total"], estimated["dirty"])


@dataclass(frozen=True, slots=True)
class Drafted:
    """Prompts of one kind, answered with and without drafts; `ratio` is the speed with them over that without."""

    kind: str
    n_prompts: int
    n_equal: int  # answers with the same tokens
    ratio: Speedup
    n_drafted: int
    n_accepted: int


def drafted(runtime: Runtime, n_threads: int) -> Iterator[Drafted]:
    """`auto` against `off`, greedily; which comes first alternates."""
    tasks = list(first_of_each(read_prompts(None), _PER_KIND))
    for kind in dict.fromkeys(task.kind for task in tasks):
        answers = [_both(runtime, task, n_threads) for task in tasks if task.kind == kind]
        with_rounds = [(off, auto) for off, auto in answers if off["rounds"] and auto["rounds"]]
        pairs = [
            Pair(int(off["emitted"]) - 1, off["decode_s"], int(auto["emitted"]) - 1, auto["decode_s"])
            for off, auto in with_rounds
        ]
        if pairs:
            yield Drafted(
                kind,
                len(pairs),
                sum(off["tokens"] == auto["tokens"] for off, auto in with_rounds),
                speedup(pairs),
                sum(int(auto["drafted"]) for _, auto in with_rounds),
                sum(int(auto["accepted"]) for _, auto in with_rounds),
            )


def _both(runtime: Runtime, task: Task, n_threads: int) -> tuple[dict[str, Any], dict[str, Any]]:
    arms = ("off", "auto") if task.index % 2 else ("auto", "off")
    answers = {arm: _chat(runtime, task, n_threads, arm) for arm in arms}
    return answers["off"], answers["auto"]


def _chat(runtime: Runtime, task: Task, n_threads: int, draft: str) -> dict[str, Any]:
    (question,) = task.messages
    more = [question.content, "--draft", draft, "--max-tokens", str(_ANSWER), "--print-tokens"]
    process = _started(runtime.command(n_threads, *more), stdout=subprocess.PIPE)
    tokens, said = process.communicate()
    return {**_stats_in(said.splitlines()), "tokens": tokens}


def _started(command: Sequence[str], stdout: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stdout, stderr=subprocess.PIPE, text=True)
    except OSError as error:
        hint = "build it as mobile/README.md says"
        raise EngineError(f"{command[0]} does not start: {error.strerror}", hint=hint) from error


def _read_stats(process: subprocess.Popen[str]) -> dict[str, float]:
    assert process.stderr is not None
    return _stats_in(iter(process.stderr.readline, ""))


def _stats_in(lines: Sequence[str] | Iterator[str]) -> dict[str, float]:
    """The first line of statistics. Raises EngineError with what was printed where there is none."""
    said = []
    for line in lines:
        if line.startswith("{"):
            found: dict[str, float] = json.loads(line)
            return found
        said.append(line.strip())
    causes = [line for line in said if line.startswith("error: ")]
    raise EngineError(f"edgeinfer-run ended: {(causes or said or ['no cause was printed'])[0]}")

"""A job: one answer that a request asks for, its state, and what is reported of it while it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from edgeinfer.decode.constraint import Constraint
from edgeinfer.decode.stats import AnswerStats
from edgeinfer.errors import EdgeInferError, EngineError
from edgeinfer.protocols import Row
from edgeinfer.serve.engine.text import AnswerText, Part
from edgeinfer.types import Prompt, Sampling

State: TypeAlias = Literal["waiting", "prefilling", "running", "finished", "canceled", "failed"]
Finish: TypeAlias = Literal["stop", "length"]


class BusyError(EdgeInferError):
    """Too many requests wait. `retry_after_s` is when a place is likely to be free."""

    def __init__(self, message: str, *, retry_after_s: float, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class ClosingError(EngineError):
    """The server ends. The request may be sent again when it is back."""

    def __init__(self) -> None:
        super().__init__("the server is closing")


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of the answer and its natural log probability; `top` are the most likely tokens in its place."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Admitted:
    """A conversation was free: the answer begins."""


@dataclass(frozen=True, slots=True)
class Written:
    parts: tuple[Part, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    n_tokens: int = 0  # of the answer so far


@dataclass(frozen=True, slots=True)
class Ended:
    finish: Finish
    stats: AnswerStats
    n_tokens: int  # of the answer, the stop token left out
    n_thought: int = 0  # tokens of its reasoning
    stop_string: str = ""  # that ended it


@dataclass(frozen=True, slots=True)
class Failed:
    error: EdgeInferError


Event: TypeAlias = Admitted | Written | Ended | Failed


@dataclass(frozen=True, slots=True)
class Task:
    """What a job is to do. `n_top` is how many alternatives are reported with each token; None: no probabilities."""

    prompt: Prompt
    sampling: Sampling
    max_tokens: int
    stop_tokens: frozenset[int]
    n_top: int | None = None


class Job:
    """One answer. The engine thread changes it; `cancel` may be called from any thread, at any time.

    `report` is called in the engine thread for every event. After Ended, Failed or a cancellation there is none.
    """

    def __init__(
        self, task: Task, text: AnswerText, report: Callable[[Event], None], constraint: Constraint | None = None
    ) -> None:
        self.task = task
        self.constraint = constraint
        self.text = text
        self.report = report
        self.state: State = "waiting"
        self.canceled = False
        self.submitted_s = 0.0  # by the scheduler's clock, as is the next
        self.admitted_s = 0.0
        self.n_passed = 0  # steps in which another prompt went first

    def cancel(self) -> None:
        self.canceled = True

    def take(self, tokens: Sequence[int], rows: Sequence[Row]) -> None:
        """Read the newest tokens, and report what they say. `rows` hold the row of each."""
        parts: list[Part] = []
        logprobs: list[TokenLogprob] = []
        for token, row in zip(tokens, rows, strict=False):
            if token in self.task.stop_tokens or self.text.stopped:
                break
            parts += self.text.feed(token)
            if self.task.n_top is not None:
                logprobs.append(logprob_of(token, row, self.task.n_top))
        self.tell(parts, logprobs)

    def tell(self, parts: Sequence[Part], logprobs: Sequence[TokenLogprob] = ()) -> None:
        if parts or logprobs:
            self.report(Written(tuple(parts), tuple(logprobs), len(self.text.tokens)))


def logprob_of(token: int, row: Row, n_top: int) -> TokenLogprob:
    """From the model's own distribution: before any mask, penalty, temperature or truncation."""
    logits = row.numpy().astype(np.float64)
    top = float(logits.max())
    logits -= top + np.log(np.exp(logits - top).sum())
    most = np.argpartition(-logits, n_top)[:n_top] if n_top else np.empty(0, np.intp)
    ordered = most[np.argsort(-logits[most], kind="stable")]
    return TokenLogprob(token, float(logits[token]), tuple((int(one), float(logits[one])) for one in ordered))

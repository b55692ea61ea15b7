"""The answers of one request, as they arrive from the engine thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from edgeinfer.decode.stats import AnswerStats
from edgeinfer.serve.engine.job import Admitted, Ended, Event, Failed, Finish, Job, TokenLogprob, Written
from edgeinfer.serve.mailbox import Letter, Mailbox, joined
from edgeinfer.types import ToolCall

__all__ = ["Answering", "Whole"]


@dataclass(slots=True)
class Whole:
    """One answer, whole."""

    text: str = ""
    thinking: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    finish: Finish = "stop"
    logprobs: list[TokenLogprob] = field(default_factory=list)
    stats: AnswerStats = field(default_factory=AnswerStats)
    n_tokens: int = 0
    n_thought: int = 0
    stop_string: str = ""

    def take(self, written: Written) -> None:
        self.logprobs += written.logprobs
        for part in written.parts:
            if isinstance(part, ToolCall):
                self.calls.append(part)
            elif part.thinking:
                self.thinking += part.text
            else:
                self.text += part.text


class Answering:
    """The answers of one request. Iterate for (index of the answer, event); `cancel` in any case at the end.

    Raises the EdgeInferError of an answer that failed: what the others have written stays written.
    """

    def __init__(self) -> None:
        self.jobs: Sequence[Job] = ()
        self._mailbox = Mailbox(asyncio.get_running_loop())
        self._unread: Sequence[Letter] = ()

    def reporter(self, index: int) -> Callable[[Event], None]:
        """The callback of the engine thread for the events of answer `index`."""
        return partial(self._mailbox.post, index)  # it must not hold `self`, whose jobs hold it

    @property
    def n_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.jobs[0].task.prompt.tokens)

    async def admitted(self) -> None:
        """Wait until the first answer begins. Raises the error that refused it."""
        self._unread = await self._mailbox.take()
        _, first = self._unread[0]
        if isinstance(first, Failed):
            self.cancel()
            raise first.error

    async def __aiter__(self) -> AsyncIterator[tuple[int, Written | Ended]]:
        n_open = len(self.jobs)
        while n_open:
            letters, self._unread = self._unread or await self._mailbox.take(), ()
            for index, event in joined(letters):
                if isinstance(event, Failed):
                    self.cancel()
                    raise event.error
                if isinstance(event, Admitted):
                    continue
                n_open -= isinstance(event, Ended)
                yield index, event

    async def whole(self) -> list[Whole]:
        """All answers, when they have ended."""
        answers = [Whole() for _ in self.jobs]
        async for index, event in self:
            answer = answers[index]
            if isinstance(event, Written):
                answer.take(event)
            else:
                answer.finish, answer.stats, answer.n_tokens = event.finish, event.stats, event.n_tokens
                answer.n_thought, answer.stop_string = event.n_thought, event.stop_string
        return answers

    def cancel(self) -> None:
        """End the answers that still run."""
        for job in self.jobs:
            job.cancel()

"""A model that is served: its prompts are made here, its answers run on its scheduler."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from edgeinfer.chat.prompt import PromptBuilder
from edgeinfer.chat.trace_formats import TraceFormat, may_use, open_trace
from edgeinfer.decode.timeline import Timeline, reuse
from edgeinfer.errors import UsageError
from edgeinfer.plan.types import Plan
from edgeinfer.protocols import Cache
from edgeinfer.runner.conversation import NO_THINKING, raw_prompt
from edgeinfer.runner.model import LoadedModel, together
from edgeinfer.serve.answering import Answering
from edgeinfer.serve.engine.job import Job, Task
from edgeinfer.serve.engine.scheduler import Scheduler
from edgeinfer.serve.engine.slots import NoPrefixes, Prefixes, Slot
from edgeinfer.serve.engine.text import AnswerText
from edgeinfer.serve.generation import Generation
from edgeinfer.types import Prompt, Sampling

__all__ = ["ServedModel"]


class ServedModel:
    """A loaded model with its scheduler. `close` ends both.

    Prompts are made in one thread apart, because one process renders the templates. A prompt depends on the request
    alone: the same request gives the same tokens, whatever was asked before.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        open_prefixes: Callable[[Cache], Prefixes] = lambda _: NoPrefixes(),
        max_waiting: int | None = None,
    ) -> None:
        """`open_prefixes` gets an empty cache of the model, and gives what keeps the beginnings of prompts."""
        self.started_s = int(time.time())
        self.tokenizer = loaded.tokenizer
        opened = together(loaded)
        self.exact = opened.model.exact_rows is not None
        self._loaded = loaded
        self._builder = PromptBuilder(opened.template, loaded.tokenizer)
        self._traces = may_use(opened.template.source, loaded.tokenizer, loaded.plan.model.thinking)
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="prompts")
        self.prefixes = open_prefixes(opened.decoders[0].cache)
        slots = [Slot(decoder) for decoder in opened.decoders]
        self.scheduler = Scheduler(opened.model.run, slots, prefixes=self.prefixes, max_waiting=max_waiting)
        self.scheduler.start()

    @property
    def plan(self) -> Plan:
        return self._loaded.plan

    @property
    def name(self) -> str:
        return self.plan.model.name

    @property
    def usual(self) -> Sampling:
        """What the model's makers advise."""
        return self._loaded.sampling

    @property
    def fingerprint(self) -> str:
        """What the tokens of an answer depend on, besides the request: file, engine, K/V type, exactness."""
        plan = self.plan
        file = plan.artifact.sha256.removeprefix("sha256:")[:12] or plan.artifact.file
        exact = "exact" if self.exact else "within rounding"
        return f"{file} {plan.artifact.tier} {plan.backend} {plan.facts.engine_version()} {plan.kv_type} {exact}"

    async def answer(self, generation: Generation) -> Answering:
        """The answers to a request, once the first of them has begun.

        Raises UsageError for what cannot be answered, BusyError when too many wait.
        """
        answering = Answering()
        loop = asyncio.get_running_loop()
        prompt, texts = await loop.run_in_executor(self._preparing, self._prepare, generation)
        stop_tokens = self.tokenizer.stop_tokens
        jobs = []
        for index, text in enumerate(texts):
            sampling = replace(generation.sampling, seed=generation.sampling.seed + index)
            task = Task(prompt, sampling, generation.max_tokens, stop_tokens, generation.n_top)
            jobs.append(Job(task, text, answering.reporter(index)))
        self.scheduler.submit(jobs)
        answering.jobs = jobs
        try:
            await answering.admitted()
        except BaseException:
            answering.cancel()
            raise
        return answering

    async def count_tokens(self, generation: Generation) -> int:
        """Tokens of the prompt."""
        loop = asyncio.get_running_loop()
        prompt, _ = await loop.run_in_executor(self._preparing, self._prompt, generation)
        return len(prompt.tokens)

    def close(self) -> None:
        self._preparing.shutdown(cancel_futures=True)
        self.scheduler.close()
        self.prefixes.close()
        self._loaded.close()

    def _prepare(self, generation: Generation) -> tuple[Prompt, list[AnswerText]]:
        prompt, builder = self._prompt(generation)
        reuse(Timeline(), 0, prompt, self.plan.window)  # refuses what does not fit, before it waits
        inside: TraceFormat | None = None
        stops = generation.stop
        if builder is not None:
            inside = open_trace(builder.opening, self._traces)
            stops = (*stops, *builder.stops)
        texts = [
            AnswerText(
                self.tokenizer,
                stops=stops,
                traces=self._traces if builder is not None else (),
                inside=inside,
                think_budget=generation.think_budget if generation.thinking else 0,
            )
            for _ in range(generation.n_answers)
        ]
        return prompt, texts

    def _prompt(self, generation: Generation) -> tuple[Prompt, PromptBuilder | None]:
        if not generation.messages:
            return raw_prompt(generation.raw, self.tokenizer), None
        builder = self._builder.fresh()
        prompt = builder.build(generation.messages, {"enable_thinking": True} if generation.thinking else NO_THINKING)
        if generation.messages[0].role != "system" and prompt.n_system > self.plan.window.sink:
            prompt = replace(prompt, n_system=0)  # the template's own default: it may leave the window
        if not prompt.tokens:
            raise UsageError("the prompt is empty")
        return prompt, builder

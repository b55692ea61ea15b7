"""A model that is served: its prompts are made here, its answers run on its scheduler."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from edgeinfer.catalog.entry import Artifact
from edgeinfer.chat.encoding import encode_continuation
from edgeinfer.chat.prompt import NO_FORM, AnswerForm, PromptBuilder
from edgeinfer.chat.reasoning import NO_THINKING
from edgeinfer.chat.tool_formats import format_of
from edgeinfer.chat.tool_prompts import confirmed, template_variables, with_tools_in_words
from edgeinfer.chat.trace_formats import mentioned_in
from edgeinfer.decode.constraint import Constraint
from edgeinfer.decode.timeline import Timeline, reuse
from edgeinfer.plan.types import Plan
from edgeinfer.protocols import Cache
from edgeinfer.runner.conversation import raw_prompt
from edgeinfer.runner.model import LoadedModel, together
from edgeinfer.serve.answering import Answering
from edgeinfer.serve.engine.job import Job, Task
from edgeinfer.serve.engine.scheduler import Scheduler
from edgeinfer.serve.engine.slots import NoPrefixes, Prefixes, Slot
from edgeinfer.serve.engine.text import AnswerText
from edgeinfer.serve.generation import Generation
from edgeinfer.serve.grammar import Grammars
from edgeinfer.serve.tools.constraint import CallsInText, calls_schema
from edgeinfer.serve.tools.reading import ToolReader
from edgeinfer.types import Message, Prompt, Sampling, compact

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
        rest_after_s: float | None = None,
    ) -> None:
        """`open_prefixes` gets an empty cache of the model, and gives what keeps the beginnings of prompts.

        `max_waiting` and `rest_after_s` are those of Scheduler.
        """
        self.started_s = int(time.time())
        self.tokenizer = loaded.tokenizer
        opened = together(loaded)
        self.template_source = opened.template.source
        self.exact = opened.model.exact_rows is not None
        self._loaded = loaded
        self._builder = PromptBuilder(opened.template, loaded.tokenizer, tags=loaded.plan.model.thinking)
        self._written = confirmed(format_of(opened.template.source), opened.template)
        self._grammars = Grammars(loaded.tokenizer)
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="prompts")
        self.prefixes = open_prefixes(opened.decoders[0].cache)
        slots = [Slot(decoder) for decoder in opened.decoders]
        self.scheduler = Scheduler(
            opened.model, slots, prefixes=self.prefixes, max_waiting=max_waiting, rest_after_s=rest_after_s
        )
        opened.model.rest()  # from now on the scheduler's thread runs it
        self.scheduler.start()

    @property
    def plan(self) -> Plan:
        return self._loaded.plan

    @property
    def name(self) -> str:
        return self.plan.model.name

    @property
    def usual(self) -> Sampling:
        """The sampling that the model's authors recommend."""
        return self._loaded.sampling

    @property
    def thinks(self) -> bool:
        """Whether the template or the catalog marks reasoning."""
        return self.plan.model.thinking is not None or any(mentioned_in(self.template_source))

    @cached_property
    def fingerprint(self) -> str:
        """What the tokens of an answer depend on, in addition to the request: file, engine, K/V type, exactness."""
        plan = self.plan
        exact = "exact" if self.exact else "within rounding"
        file, engine = fingerprint_of(plan.artifact), plan.facts.engine_version()
        return f"{file} {plan.artifact.tier} {plan.backend} {engine} {plan.kv_type} {exact}"

    async def answer(self, generation: Generation) -> Answering:
        """The answers to a request, once the first of them has begun.

        Raises UsageError for what cannot be answered, BusyError when too many wait.
        """
        answering = Answering()
        loop = asyncio.get_running_loop()
        prepared = await loop.run_in_executor(self._preparing, self._prepare, generation)
        jobs = []
        for index, (text, constraint) in enumerate(prepared.answers):
            sampling = replace(generation.sampling, seed=generation.sampling.seed + index)
            task = Task(prepared.prompt, sampling, generation.max_tokens, prepared.stop_tokens, generation.n_top)
            jobs.append(Job(task, text, answering.reporter(index), constraint))
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
        rendered = await loop.run_in_executor(self._preparing, self._render, generation)
        return len(rendered.prompt.tokens)

    def close(self) -> None:
        self._preparing.shutdown(cancel_futures=True)
        self.scheduler.close()
        self.prefixes.close()
        self._loaded.close()

    def _prepare(self, generation: Generation) -> Prepared:
        """Everything that an answer needs except a conversation. What cannot be answered is refused here, before it
        waits."""
        rendered = self._render(generation)
        prompt, form = rendered.prompt, rendered.form
        reuse(Timeline(), 0, prompt, self.plan.window)
        must_call = generation.may_call and generation.tool_choice == "required"
        constraint = self._constraint(generation)
        answers = []
        for _ in range(generation.n_answers):
            calls = None
            if generation.may_call:
                names = frozenset(tool.name for tool in generation.tools)
                calls = ToolReader(self._written, names, inside=must_call)
            text = AnswerText(
                self.tokenizer,
                stops=(*generation.stop, *form.stops),
                traces=form.traces,
                inside=None if must_call else form.inside,
                think_budget=generation.think_budget if may_think(generation) else 0,
                calls=calls,
                most_calls=1 if generation.one_call else None,
            )
            answers.append((text, constraint() if constraint else None))
        return Prepared(prompt, self.tokenizer.stop_tokens | form.stop_tokens, tuple(answers))

    def _constraint(self, generation: Generation) -> Callable[[], Constraint] | None:
        """Makes the constraint of each answer; None if every token may follow."""
        if generation.schema is not None:
            return self._grammars.json(generation.schema, parameter=generation.schema_parameter).copy
        if not generation.may_call:
            return None
        call = self._grammars.json(calls_schema(generation.tools, self._written), parameter="tools")
        if generation.tool_choice == "required":
            return call.copy
        return lambda: CallsInText(self.tokenizer, self._written, call.copy)

    def _render(self, generation: Generation) -> Rendered:
        if not generation.messages:
            return Rendered(raw_prompt(generation.raw, self.tokenizer))
        builder, tools, written = self._builder.fresh(), generation.tools if generation.may_call else (), self._written
        messages: Sequence[Message] = generation.messages
        if not written.native:
            messages = with_tools_in_words(messages, tools)
        variables = {"enable_thinking": True} if may_think(generation) else NO_THINKING
        prompt = builder.build(messages, {**variables, **template_variables(tools, written)})
        if messages[0].role != "system" and not tools and prompt.n_system > self.plan.window.sink:
            prompt = replace(prompt, n_system=0)  # the template's own default: it may leave the window
        if generation.tool_choice == "required" and tools:
            opening = encode_continuation(self.tokenizer, written.opening, after=builder.opening, special=True)
            prompt = replace(prompt, tokens=compact([*prompt.tokens, *opening]))
        return Rendered(prompt, builder.form)


@dataclass(frozen=True, slots=True)
class Rendered:
    prompt: Prompt
    form: AnswerForm = NO_FORM


@dataclass(frozen=True, slots=True)
class Prepared:
    prompt: Prompt
    stop_tokens: frozenset[int]
    answers: tuple[tuple[AnswerText, Constraint | None], ...]


def fingerprint_of(artifact: Artifact) -> str:
    """The digest; for a file of the person's own its name and size, and not where it lies."""
    return artifact.sha256.removeprefix("sha256:")[:12] or f"{Path(artifact.file).name}:{artifact.n_bytes}"


def may_think(generation: Generation) -> bool:
    """An answer that must be JSON from its first token on has no place for reasoning."""
    return generation.thinking and generation.schema is None and generation.tool_choice != "required"

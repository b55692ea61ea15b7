"""One model opened several times: with speculation off, and with each arm. And one answer of it, measured."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final

from edgeinfer import backends
from edgeinfer.backends.gguf.facts import FACTS as LLAMA_CPP
from edgeinfer.bench.opened import path_of
from edgeinfer.bench.speculation.records import CONTROL, PLAIN, Subject
from edgeinfer.chat.prompt import PromptBuilder
from edgeinfer.chat.template import CHATML, Renderer, Template
from edgeinfer.decode.drafting import OpenedDraftModel, measure, new_drafting, opened_draft_model, without_hopeless
from edgeinfer.decode.loop import Decoder
from edgeinfer.decode.stats import AnswerStats
from edgeinfer.errors import UsageError
from edgeinfer.formats.draft_file import read_draft_file
from edgeinfer.plan.types import Plan, Request
from edgeinfer.protocols import Model
from edgeinfer.runner.choose import choose
from edgeinfer.runner.opening import read_template
from edgeinfer.types import KvType, Message, Prompt, Sampling, SpeculationMode

CONTEXT: Final = 1024  # positions: enough for every prompt of the bench, and equal for all sides
SLICE: Final = 10  # tokens that a side answers before the next one has its turn


@dataclass(frozen=True, slots=True)
class Answered:
    tokens: tuple[int, ...]
    stats: AnswerStats
    load: float

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr(self.tokens).encode()).hexdigest()[:16]


class _Reading:
    """An answer that is read a few tokens at a time. It starts with an empty cache, so that first tokens can be
    compared."""

    def __init__(self, decoder: Decoder, prompt: Prompt, sampling: Sampling, max_tokens: int, stops: frozenset[int]):
        decoder.cache.rewind(0)
        self._decoder = decoder
        self._stream = decoder.stream(prompt, sampling, max_tokens=max_tokens, stop_tokens=stops)
        self._tokens: list[int] = []
        self.ended = False

    def read(self, n: int) -> None:
        tokens = list(islice(self._stream, n))
        self._tokens += tokens
        self.ended = len(tokens) < n

    def answered(self) -> Answered:
        return Answered(tuple(self._tokens), self._decoder.stats, os.getloadavg()[0])


def turned(order: Sequence[str], turn: int) -> list[str]:
    """`order`, rotated by `turn`; every second round of turns goes backwards."""
    first = turn % len(order)
    names = [*order[first:], *order[:first]]
    return names[::-1] if turn // len(order) % 2 else names


class Sides:
    """The decoders of one model by arm name, "plain" and "plain again" among them. A context manager; owns all that
    it opens."""

    def __init__(
        self,
        name: str,
        arms: Sequence[SpeculationMode],
        draft_model: str = "",
        *,
        drafts: Sequence[Path] = (),
        backend: str = "",
        kv_type: KvType | None = None,
        template: str = "",
    ) -> None:
        """`drafts` are taught drafts, at most one of each kind. `auto` takes the first, an arm of a kind its draft.

        `template` is a Jinja file in place of the model's own, or "chatml".
        """
        source = read_template(template) if template else None
        self._stack = ExitStack()
        self._draft_model, self._backend, self._kv_type = draft_model, backend, kv_type
        self._drafts: dict[str, Path] = {read_draft_file(path).kind: path for path in drafts}
        self._draft: OpenedDraftModel | None = None
        self.skipped: dict[str, str] = {}  # arms that this model does not have, and why
        self.notes: dict[str, str] = {}  # arms that do less than was asked for, and why
        self.decoders: dict[str, Decoder] = {}
        self._models: dict[tuple[str, ...], Model] = {}
        try:
            self._renderer = Renderer()
            self._stack.callback(self._renderer.close)
            self.plan = self._open(name, PLAIN, "off")
            self._open(name, CONTROL, "off")
            self.subject = subject_of(self.plan)
            for arm in arms:
                try:
                    self.plan = self._open(name, arm, arm)
                except UsageError as error:
                    self.skipped[arm] = str(error)
            self._words = self._template(source)
        except BaseException:
            self._stack.close()
            raise

    @property
    def plain_model(self) -> Model:
        return self._models[()]

    @property
    def exit_model(self) -> Model | None:
        """The model opened with its early exit."""
        return next((model for model in self._models.values() if model.drafts_with), None)

    def prompt(self, messages: Sequence[Message]) -> Prompt:
        """A prompt without a system part: nothing is evicted in this bench, so no sinks are needed."""
        return replace(PromptBuilder(self._words, self.plain_model.tokenizer).build(messages), n_system=0)

    def answer(
        self, order: Sequence[str], prompt: Prompt, sampling: Sampling, max_tokens: int
    ) -> Mapping[str, Answered]:
        """The answers of the arms in `order`, a few tokens in turn, so that changes of the machine affect all alike."""
        stops = self.plain_model.tokenizer.stop_tokens
        readings = {arm: _Reading(self.decoders[arm], prompt, sampling, max_tokens, stops) for arm in order}
        for reading in readings.values():
            reading.read(1)
        turn = 0
        while not all(reading.ended for reading in readings.values()):
            for arm in turned(order, turn):
                readings[arm].read(SLICE)
            turn += 1
        return {arm: reading.answered() for arm, reading in readings.items()}

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Sides:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _open(self, name: str, arm: str, mode: SpeculationMode) -> Plan:
        first = next(iter(self._drafts.values()), None)
        taught = first if mode == "auto" else self._drafts.get(mode)
        plan = plan_of(
            name,
            mode,
            self._draft_model,
            draft_file=str(taught or ""),
            backend=self._backend,
            kv_type=self._kv_type,
        )
        plan = replace(plan, n_threads=plan.n_threads or plan.device.n_cores)  # the same on every side
        model = self._model(plan)
        if "early-exit" in plan.speculation.drafters and not model.drafts_with:
            if mode == "early-exit":
                raise UsageError(model.note or "this model does not draft with its early layers")
            self.notes[arm] = model.note
        draft = self._drafting(plan)
        costs = measure(model, plan, draft=draft)
        planned, plan = plan, without_hopeless(plan, costs)
        if plan is not planned:
            self.notes[arm] = plan.speculation.note
        if plan.taught is not planned.taught:
            model = self._model(plan)
            costs = measure(model, plan, draft=draft)
        drafting = new_drafting(model, plan, costs, draft=draft)
        self._stack.callback(drafting.close)
        decoder = Decoder(model, plan.window, controller=drafting.controller, drafters=drafting.drafters)
        self._stack.callback(decoder.close)
        self.decoders[arm] = decoder
        return plan

    def _model(self, plan: Plan) -> Model:
        """Arms that open the model alike share it, and on llama.cpp all share its weights: where in memory these come
        to lie moves the speed of a small model by some percent. So do arms that the plain model can draft for."""
        key = tuple(name for name in ("early-exit", "exit", "feature") if name in plan.speculation.drafters)
        if key not in self._models:
            first = self._models.get(())
            if first is not None and key == (first.drafts_with,):
                self._models[key] = first
            elif plan.facts == LLAMA_CPP and first is not None:
                self._models[key] = _over_the_same_weights(first, plan)
            else:
                self._models[key] = model = backends.get(plan.backend).load(plan, path_of(plan))
                self._stack.callback(model.close)
        return self._models[key]

    def _drafting(self, plan: Plan) -> OpenedDraftModel | None:
        if "draft" not in plan.speculation.drafters:
            return None
        if self._draft is None:
            small = plan_of(self._draft_model, "off", backend=plan.backend)
            model = backends.get(small.backend).load(small, path_of(small))
            self._stack.callback(model.close)
            self._draft = opened_draft_model(model, small)
        return self._draft

    def _template(self, source: str | None) -> Template:
        tokenizer = self.plain_model.tokenizer
        source = source or tokenizer.chat_template or CHATML
        return Template(self._renderer, source, bos=tokenizer.bos_text, eos=tokenizer.eos_text)


def _over_the_same_weights(first: Model, plan: Plan) -> Model:
    """`first` owns the weights: close it, and only the caches of this one."""
    from edgeinfer.backends.gguf.model import GgufModel
    from edgeinfer.formats.draft_file import read_draft_for
    from edgeinfer.formats.gguf_header import read_header

    assert isinstance(first, GgufModel)
    path = path_of(plan)
    model = GgufModel(first.loaded, read_header(path), first.settings)
    if plan.speculation.exit_layer is not None:
        model.draft_with(plan.speculation.exit_layer, path)
    if plan.taught is not None:
        draft = read_draft_for(Path(plan.taught.file), plan.model.shape)
        model.draft_by_file(draft.with_vocabulary(plan.taught.n_ranked), path)
    return model


def plan_of(
    name: str,
    mode: SpeculationMode,
    draft_model: str = "",
    *,
    draft_file: str = "",
    backend: str = "",
    kv_type: KvType | None = None,
) -> Plan:
    request = Request(
        model=name,
        speculation=mode,
        draft_model=draft_model,
        draft_file=draft_file,
        backend=backend,
        kv_type=kv_type,
        context=CONTEXT,
        sink=0,
        force=True,
    )
    return choose(request, offline=True)


def subject_of(plan: Plan) -> Subject:
    return Subject(plan.model.name, plan.artifact.tier, plan.model.shape.n_params)


def by_arm(stats: AnswerStats) -> Mapping[str, tuple[int, int, float]]:
    return {name: (arm.rounds, arm.emitted, arm.seconds) for name, arm in stats.arms.items()}

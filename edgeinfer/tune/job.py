"""`edgeinfer tune` from a model's name to a draft file. Finished work is kept in a folder and not repeated."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import torch

from edgeinfer.errors import ArtifactError, NoPlanError, UsageError
from edgeinfer.formats.artifact import check_artifact
from edgeinfer.formats.gguf_header import GgufHeader
from edgeinfer.plan.types import Plan, Request
from edgeinfer.runner.choose import choose
from edgeinfer.runner.opening import Downloads, bring
from edgeinfer.tune.conversations import batches
from edgeinfer.tune.drafts import N_DEPTHS, Draft, Kind, new_draft
from edgeinfer.tune.expect import KNOWN_AGREEMENT, WORTHWHILE, Expected, best_depth, deepened, draft_cost
from edgeinfer.tune.judge import Agreement, judge, rank_tokens
from edgeinfer.tune.pace import measure_pace
from edgeinfer.tune.prepare import Prepared, prepare
from edgeinfer.tune.teach import Point, Progress, Schedule, teach
from edgeinfer.tune.text import Text, first_greedy, text_of
from edgeinfer.tune.torch_device import TorchDevice, free_bytes, torch_device
from edgeinfer.tune.torch_model import TorchModel, check_architecture, load
from edgeinfer.tune.work import KeptWork, Sizes, Work, fit_memory, make_work, read_work, write_work
from edgeinfer.tune.write_file import draft_shape, tensor_digest, write_draft

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Forecast", "Listener", "Taught", "TuneRequest", "tune"]

N_RANKED: Final = 16_384  # tokens that a draft may guess; a backend takes as many of them as pay
HEAD_SIZES: Final = (2048, 4096, 8192, 16_384)
TEMPERATURES: Final = (0.7, 1.0)
_CURVE_ROWS: Final = 8  # conversations that are judged during teaching
SAVE_EVERY_S: Final = 60.0
_SEED: Final = 20_260


@dataclass(frozen=True, slots=True)
class TuneRequest:
    model: str
    kinds: tuple[Kind, ...]
    minutes: float
    exit_layer: int = 2
    data: Path | None = None
    out: Path | None = None
    device: str = ""  # of torch; "" takes the fastest
    force: bool = False
    sizes: Sizes | None = None  # of the batches; None: what suits the device


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is known before teaching starts. `expected` is by kind, with the agreement of drafts that were measured."""

    title: str
    device: str
    seconds: float
    n_text_tokens: int
    n_positions: Mapping[str, int]  # that each kind is taught on
    memory_bytes: int
    budget_bytes: int
    row_costs: tuple[float, ...]
    expected: Mapping[str, Expected]


@dataclass(frozen=True, slots=True)
class Taught:
    """A draft that was written. `answers` are judged on prompts that were not taught, `own_text` on held-out text."""

    kind: Kind
    path: Path
    own_text: tuple[Agreement, ...]  # greedy, by head size
    answers: tuple[Agreement, ...]  # greedy, by head size
    sampled: tuple[Agreement, ...]  # of the answers, by temperature
    expected: Mapping[int, Expected]  # by head size, on the answers
    curve: tuple[Point, ...]


class Listener(Protocol):
    def waiting(self, sentence: str) -> None: ...
    def forecast(self, forecast: Forecast) -> None: ...
    def wrote(self, n_parts: int, of: int, n_tokens: int) -> None: ...
    def taught(self, kind: Kind, progress: Progress) -> None: ...


@dataclass(frozen=True, slots=True)
class Subject:
    """The model that is taught, and where its drafts go."""

    plan: Plan
    path: Path
    header: GgufHeader
    digest: str  # sha256 of the tensor data
    outs: Mapping[Kind, Path]

    @property
    def folder(self) -> Path:
        """What is finished so far."""
        first = next(iter(self.outs.values()))
        return first.with_name(first.name + ".tuning")


def tune(request: TuneRequest, downloads: Downloads, listener: Listener) -> list[Taught]:
    """Teach and write the drafts of `request`.

    Raises what `choose` and `load` raise; UsageError for a model, data or a time that cannot be used; NoPlanError where
    memory is short, or nothing would be won on this device.
    """
    device = torch_device(request.device)
    subject = find_subject(request, downloads)
    shape = subject.plan.model.shape
    prepared = prepare(subject.plan, subject.path, data=request.data, waiting=listener.waiting)
    n_ranked = min(N_RANKED, shape.n_vocab)
    expected: dict[str, Expected] = {
        kind: best_depth(
            KNOWN_AGREEMENT[kind], prepared.row_cost,
            draft_cost(shape, kind, exit_layer=request.exit_layer, n_ranked=n_ranked),
            max_rows=len(prepared.row_costs),
        )
        for kind in request.kinds
    }  # fmt: skip
    if not request.force:
        check_worth(subject.plan, prepared, expected)
    n_given = len(prepared.given.tokens) if prepared.given else 0
    begun = begin(request, subject, device, usual_sizes(device, request, n_given), n_ranked=n_ranked, n_given=n_given)
    work = begun.kept.work
    listener.forecast(
        Forecast(
            subject.plan.model.title, device.title, begun.kept.seconds,
            n_given or work.n_parts * work.sizes.part_tokens,
            {kind: n * work.sizes.step_positions for kind, n in work.n_steps.items()},
            begun.n_bytes, begun.budget_bytes, prepared.row_costs, expected,
        )
    )  # fmt: skip
    taught = teach_all(request, subject, prepared, begun.model, work, listener)
    shutil.rmtree(subject.folder)
    return taught


@dataclass(frozen=True, slots=True)
class Begun:
    """A model that is loaded for teaching, and the work that was planned, now or in an earlier run."""

    model: TorchModel
    kept: KeptWork
    n_bytes: int
    budget_bytes: int


def begin(
    request: TuneRequest, subject: Subject, device: TorchDevice, wanted: Sizes, *, n_ranked: int, n_given: int
) -> Begun:
    """Raises NoPlanError where memory is short, UsageError where the time is, or the work has other settings."""
    settings = {
        "model": subject.digest, "kind": list(request.kinds), "minutes": request.minutes,
        "exit layer": request.exit_layer, "data": str(request.data or ""), "device": device.title,
    }  # fmt: skip
    kept = read_work(subject.folder, settings)
    if kept is not None:
        device, wanted = replace(device, dtype=getattr(torch, kept.value_type)), kept.work.sizes
    budget = free_bytes(device, subject.plan.budget_bytes)
    sizes, n_bytes = fit_memory(
        subject.plan.model.shape, wanted, budget,
        n_ranked=n_ranked, n_depths=N_DEPTHS, value_bytes=device.value_bytes,
    )  # fmt: skip
    if kept is not None and sizes != wanted:
        raise NoPlanError(
            f"the work was begun with more memory than the {budget / 1e9:.1f} GB that this device can give now",
            hint=f"close other programs, or delete {subject.folder} to start over",
        )
    model = load(subject.path, device=device.name, dtype=device.dtype)
    if kept is None:
        pace = measure_pace(model, sizes, request.kinds, exit_layer=request.exit_layer, n_ranked=n_ranked)
        work = make_work(sizes, pace, request.minutes, n_given_rows=n_given // sizes.n_tokens)
        kept = KeptWork(work, work.seconds(pace), str(device.dtype).removeprefix("torch."))
        subject.folder.mkdir(exist_ok=True)
        write_work(subject.folder, settings, kept)
    return Begun(model, kept, n_bytes, budget)


def find_subject(request: TuneRequest, downloads: Downloads) -> Subject:
    """Raises ArtifactError for a model that cannot be taught, UsageError where its draft cannot be written."""
    plan = choose(Request(model=request.model), offline=downloads.offline)
    path = bring(plan, downloads)
    header = check_artifact(path)
    if not isinstance(header, GgufHeader) or header.parts:
        what = "in several parts" if isinstance(header, GgufHeader) else "a folder"
        raise ArtifactError(f"{path.name} is {what}; a draft is taught to one .gguf file", hint="name a .gguf file")
    check_architecture(header, path.name)
    n_layers = plan.model.shape.n_layers
    if "exit" in request.kinds and not 0 < request.exit_layer < n_layers:
        raise UsageError(f"--exit-layer {request.exit_layer}: {path.name} has {n_layers} layers", hint="2 is usual")
    base = request.out or path.with_name(f"{path.stem}.draft.safetensors")
    if not base.name.endswith(".draft.safetensors"):
        raise UsageError(
            f"--out {base.name}: a draft's name ends in .draft.safetensors", hint="the name is how it is found"
        )
    stem = base.name.removesuffix(".draft.safetensors")
    several = len(request.kinds) > 1
    outs = {kind: base.with_name(f"{stem}.{kind}.draft.safetensors") if several else base for kind in request.kinds}
    if not os.access(base.absolute().parent, os.W_OK):
        raise UsageError(f"cannot write into {base.absolute().parent}", hint="--out FILE.draft.safetensors")
    return Subject(plan, path, header, tensor_digest(path, header), outs)


def check_worth(plan: Plan, prepared: Prepared, expected: Mapping[str, Expected]) -> None:
    best = max(expected.values(), key=lambda one: one.speedup)
    if best.speedup >= WORTHWHILE:
        return
    costs = (
        ", ".join(f"{n} rows {cost:.2f}" for n, cost in enumerate(prepared.row_costs[1:5], 2))
        or "one row alone is exact"
    )
    raise NoPlanError(
        f"a draft would win nothing for {plan.model.title} on this device: {best.speedup:.2f} times plain speed is "
        f"expected at best (in plain tokens, {costs})",
        hint="--force teaches it anyway",
    )


def usual_sizes(device: TorchDevice, request: TuneRequest, n_given: int) -> Sizes:
    """A GPU is filled by large batches; a CPU learns more from many small ones."""
    sizes = request.sizes or (Sizes(512, 2048, 32) if device.is_gpu else Sizes(256, 32, 4))
    if request.data and n_given < 10 * sizes.n_tokens:
        raise UsageError(
            f"{request.data} has {n_given:,} tokens; at least {10 * sizes.n_tokens:,} are needed",
            hint="add conversations, or leave --data out",
        )
    return sizes


def teach_all(
    request: TuneRequest, subject: Subject, prepared: Prepared, model: TorchModel, work: Work, listener: Listener
) -> list[Taught]:
    text = text_of(subject.folder, model, prepared, work, listener.wrote)
    ranked = rank_tokens(text.taught, model.shape.n_vocab)[:N_RANKED]
    return [
        judged(
            request,
            subject,
            prepared,
            model,
            text,
            ranked,
            teach_kind(request, subject, model, work, text, ranked, kind, listener),
        )
        for kind in request.kinds
    ]


def teach_kind(
    request: TuneRequest, subject: Subject, model: TorchModel, work: Work, text: Text, ranked: Tensor, kind: Kind,
    listener: Listener,
) -> tuple[Draft, tuple[Point, ...]]:  # fmt: skip
    draft = new_draft(model, kind, exit_layer=request.exit_layer, seed=_SEED)
    small = first_greedy(text.held_out, _CURVE_ROWS)

    def agreement() -> tuple[float, ...]:
        return judge(model, draft, small, ranked, head_sizes=(len(ranked),))[0].by_depth

    curve = teach(
        model, draft, batches(text.taught, work.sizes.step_rows, seed=_SEED), Schedule(work.n_steps[kind]),
        ranked=ranked,
        judge=agreement,
        checkpoint=subject.folder / f"{kind}.pt",
        save_every_s=SAVE_EVERY_S,
        progress=lambda progress: listener.taught(kind, progress),
    )  # fmt: skip
    return draft, curve


def judged(
    request: TuneRequest, subject: Subject, prepared: Prepared, model: TorchModel, text: Text, ranked: Tensor,
    taught: tuple[Draft, tuple[Point, ...]],
) -> Taught:  # fmt: skip
    """Judge a taught draft and write its file."""
    draft, curve = taught
    shape = subject.plan.model.shape
    sizes = [*(size for size in HEAD_SIZES if size < len(ranked)), len(ranked)]
    answers = tuple(judge(model, draft, text.answers, ranked, head_sizes=sizes))
    sampled = judge(model, draft, text.answers, ranked, head_sizes=sizes[-1:], temperatures=TEMPERATURES)
    write_draft(
        draft,
        subject.outs[draft.kind],
        shape=draft_shape(model, shape.architecture),
        norm_eps=model.shape.norm_eps,
        base_model=subject.plan.model.title,
        taught_on=subject.digest,
        license=subject.plan.model.license,
        agreement=answers[-1].by_depth,
        by_vocabulary=[(one.n_vocab, one.by_depth) for one in answers],
        ranked=ranked,
    )
    return Taught(
        draft.kind,
        subject.outs[draft.kind],
        tuple(judge(model, draft, text.held_out, ranked, head_sizes=sizes)),
        answers,
        tuple(sampled),
        {
            one.n_vocab: best_depth(
                deepened(one.by_depth), prepared.row_cost,
                draft_cost(shape, draft.kind, exit_layer=request.exit_layer, n_ranked=one.n_vocab),
                max_rows=len(prepared.row_costs),
            )
            for one in answers
        },
        curve,
    )  # fmt: skip

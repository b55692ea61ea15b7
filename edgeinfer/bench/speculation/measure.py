"""`edgeinfer bench speculation`: the same prompts with speculation off and on, in one process, a few tokens in turn.

Off is the whole model without an exit. The order of the arms changes with every turn. The comparison is of the time
of the tokens after the first; the time of the first token is reported separately.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import mean
from typing import Final

from edgeinfer.bench.opened import add_format_arguments, format_words
from edgeinfer.bench.report import check_outputs, print_report, say
from edgeinfer.bench.speculation.records import CONTROL, LARGE, PLAIN, Log, LogFile, Measured, Record, Subject
from edgeinfer.bench.speculation.sides import Answered, Sides, by_arm, plan_of, subject_of, turned
from edgeinfer.decode.drafters import drafter_facts
from edgeinfer.errors import UsageError
from edgeinfer.named_files import read_text, write_text
from edgeinfer.types import GREEDY, Message, Sampling, SpeculationMode

TEMPERATURES: Final = (0.0, 0.7)
MAX_PROMPTS_BYTES: Final = 64 << 20
MAX_ROWS: Final = 16  # of the rounds whose cost is measured
FULL_MINUTES, QUICK_MINUTES = 40.0, 2.0
_CONTROLLED: Final = frozenset({0, 1})  # of five prompts in a row; kinds come in turn and are six
_WARM: Final = (
    "Repeat this: one two three, one two three, one two three, one two three."  # so that every arm drafts once
)
_ANSWER: Final = 50  # tokens of a typical answer, to estimate how long the run takes
_LOOKED_AT: Final = 12  # prompts whose lengths are averaged for that estimate


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt of the file, in the order of the file."""

    index: int
    kind: str
    messages: tuple[Message, ...]
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Amount:
    """How much of the bench is run on one model."""

    tasks: tuple[Task, ...]
    runs: int  # greedy ones
    sampled: tuple[Task, ...]


def arms_to_measure(*, with_draft_model: bool) -> tuple[SpeculationMode, ...]:
    """What is measured against plain decoding: the controller, and each drafter alone."""
    return ("auto", *(facts.name for facts in drafter_facts() if with_draft_model or facts.needs != "draft model"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", action="append", metavar="NAME|PATH", help="repeatable; default: demo")
    parser.add_argument(
        "--arm",
        action="append",
        choices=arms_to_measure(with_draft_model=True),
        help="repeatable; default: all but draft",
    )
    parser.add_argument(
        "--draft-model", default="", metavar="NAME|PATH", help="for the arm draft, and then also for auto"
    )
    parser.add_argument(
        "--draft",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a taught draft; repeatable, one per kind; auto takes the first",
    )
    add_format_arguments(parser)
    parser.add_argument("--backend", default="", metavar="NAME", help="one of those that `edgeinfer doctor` lists")
    parser.add_argument("--only", metavar="MODEL:TIER", help="run only this one of the given models")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="JSON lines with kind, messages, max_tokens")
    parser.add_argument("--quick", action="store_true", help="two minutes in all")
    parser.add_argument("--minutes", type=float, help=f"time for all models together; default {FULL_MINUTES:g}")
    parser.add_argument("--runs", type=int, help="greedy runs; default 3 for large models at Q4_0 and F16, else 1")
    parser.add_argument(
        "--log",
        type=Path,
        metavar="FILE",
        help="save the figures of every answer, so that an interrupted run can resume",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object for each row and each prompt on stdout")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the report there, not on stdout")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="speed-up against acceptance, as FILE.png and FILE.svg"
    )


def run(args: argparse.Namespace) -> int:
    """Raises UsageError for prompts or a log that cannot be read, and what opening a model raises."""
    from edgeinfer.bench.speculation.report import as_json, rows_by_prompt, rows_of
    from edgeinfer.bench.speculation.text import text_of

    check_outputs(args.out, args.log, plots=[args.plot])
    log = measure_all(args)
    rows = rows_of(log)
    if args.json:
        for row in [*rows, *rows_by_prompt(log)]:
            print_report(json.dumps(as_json(row)) + "\n")
    else:
        show(text_of(log, rows, command_of(args)), args.out)
    if args.plot:
        from edgeinfer.bench.speculation.plot import plot

        plot(rows, args.plot)
    return 0


def measure_all(args: argparse.Namespace) -> Log:
    """Every model that was asked for. Raises what `run` raises."""
    log = LogFile(args.log)
    tasks = read_prompts(args.prompts)
    names = args.model or ["demo"]
    minutes = args.minutes or (QUICK_MINUTES if args.quick else FULL_MINUTES)
    chosen = args.arm or arms_to_measure(with_draft_model=False)
    for name, share in zip(names, shares(names, args.runs, args.backend), strict=True):
        measure_model(name, chosen, tasks, log, args, minutes * 60 * share)
    return log.log


def show(report: str, out: Path | None) -> None:
    if out:
        write_text(out, report + "\n")
    else:
        print_report(report + "\n")


def shares(names: Sequence[str], runs: int | None, backend: str = "") -> list[float]:
    """The share of the time for each model: the square root of the bytes that its runs read. So a large model gets
    enough prompts, and a small, fast one still gets more."""
    plans = [plan_of(name, "off", backend=backend) for name in names]
    weights = [sqrt(plan.artifact.n_bytes * runs_of(subject_of(plan), runs)) for plan in plans]
    return [weight / sum(weights) for weight in weights]


def runs_of(subject: Subject, given: int | None) -> int:
    large = subject.n_params >= LARGE
    return given or (3 if large and subject.tier in ("Q4_0", "F16") else 1)


def command_of(args: argparse.Namespace) -> list[str]:
    """The command as it can be given again; files by their names."""
    command = ["edgeinfer", "bench", "speculation"]
    for name in args.model or []:
        command += ["--model", Path(name).name]
    for arm in args.arm or []:
        command += ["--arm", arm]
    command += ["--draft-model", Path(args.draft_model).name] if args.draft_model else []
    for file in args.draft:
        command += ["--draft", file.name]
    command += format_words(args)
    command += ["--backend", args.backend] if args.backend else []
    command += ["--prompts", Path(args.prompts).name] if args.prompts else []
    command += ["--quick"] if args.quick else []
    for flag in ("minutes", "runs"):
        command += [f"--{flag}", f"{getattr(args, flag):g}"] if getattr(args, flag) else []
    return command


def measure_model(
    name: str,
    arms: Sequence[SpeculationMode],
    tasks: Sequence[Task],
    log: LogFile,
    args: argparse.Namespace,
    left: float,
) -> None:
    began = time.perf_counter()
    subject = subject_of(plan_of(name, "off", backend=args.backend))
    if args.only and args.only not in (f"{subject.model}:{subject.tier}", subject.tier, subject.model):
        return
    with Sides(
        name,
        arms,
        args.draft_model,
        drafts=args.draft,
        backend=args.backend,
        kv_type=args.kv_type,
        template=args.template,
    ) as sides:
        say(f"{subject.model} {subject.tier}: {', '.join(sides.decoders)}")
        for arm, why in sides.skipped.items():
            say(f"  no {arm}: {why}")
        for arm, note in sides.notes.items():
            say(f"  {arm}: {note}")
        prefill_s = warm_up(sides)
        measure_costs(sides, log, budget_s=0.5 if args.quick else 2.5)
        plain_s = log.log.costs[subject].costs.plain_s
        left -= time.perf_counter() - began
        sides_run = len(sides.decoders) - 1 + len(_CONTROLLED) / 5
        n_prompt = mean(len(sides.prompt(task.messages).tokens) for task in tasks[:_LOOKED_AT])
        prompt_s = sides_run * (plain_s * _ANSWER + prefill_s * n_prompt)
        amount = how_much(subject, tasks, prompt_s, left, args.runs)
        done = {record.key for record in log.log.records}
        for run_index in range(amount.runs):
            for turn, task in enumerate(amount.tasks):
                measure(sides, task, 0.0, run_index, turn, log, done)
        for turn, task in enumerate(amount.sampled):
            measure(sides, task, TEMPERATURES[1], 0, turn, log, done)


def how_much(subject: Subject, tasks: Sequence[Task], prompt_s: float, left: float, runs: int | None) -> Amount:
    """As many prompts of every kind as the time allows, with half of them sampled once too."""
    runs = runs_of(subject, runs)
    kinds = list(dict.fromkeys(task.kind for task in tasks))
    per_kind = max(1, round(left / (prompt_s * len(kinds) * (runs + 0.5))))
    chosen = tuple(first_of_each(tasks, per_kind))
    return Amount(chosen, runs, tuple(first_of_each(tasks, max(1, per_kind // 2))))


def first_of_each(tasks: Sequence[Task], per_kind: int) -> Iterator[Task]:
    """The first `per_kind` tasks of every kind, in turn of the kinds."""
    seen: dict[str, int] = {}
    for task in tasks:
        seen[task.kind] = seen.get(task.kind, 0) + 1
        if seen[task.kind] <= per_kind:
            yield task


def measure(
    sides: Sides, task: Task, temperature: float, run_index: int, turn: int, log: LogFile, done: Set[object]
) -> None:
    """One prompt with every arm, the control among them now and then."""
    arms = [arm for arm in sides.decoders if arm != CONTROL or turn % 5 in _CONTROLLED]
    key = (sides.subject, temperature, run_index, task.index)
    if all((*key, arm) in done for arm in arms):
        return
    prompt = sides.prompt(task.messages)
    order = turned(arms, turn + run_index)
    answers = sides.answer(order, prompt, Sampling(temperature=temperature, seed=task.index), task.max_tokens)
    for place, (arm, answered) in enumerate(answers.items()):
        keep = arm == PLAIN and temperature == 0 and run_index == 0
        text = (tuple(prompt.tokens), answered.tokens) if keep else ((), ())
        log.add(record_of(sides.subject, task, answered, (temperature, run_index, arm, place), text))
    say(f"  {task.kind:9} {task.index:3} T={temperature:g} run {run_index}")


def record_of(
    subject: Subject,
    task: Task,
    answered: Answered,
    where: tuple[float, int, str, int],
    text: tuple[tuple[int, ...], tuple[int, ...]],
) -> Record:
    stats, (temperature, run_index, arm, place) = answered.stats, where
    return Record(
        subject, temperature, run_index, task.index, task.kind, arm, place,
        tokens=len(answered.tokens) - 1, seconds=stats.decode_s, first_token_s=stats.first_token_s,
        drafted=stats.drafted, accepted=stats.accepted, digest=answered.digest, load=answered.load,
        arms=by_arm(stats), text=text,
    )  # fmt: skip


def warm_up(sides: Sides) -> float:
    """An answer on every side, so that each has drafted once; the seconds that a token of its prompt took."""
    answers = sides.answer(list(sides.decoders), sides.prompt([Message("user", _WARM)]), GREEDY, 32)
    stats = answers[PLAIN].stats
    return stats.first_token_s / stats.prompt


def measure_costs(sides: Sides, log: LogFile, *, budget_s: float) -> None:
    """Row costs for the report, measured on this machine before the answers."""
    from edgeinfer.decode.policy.calibrate import calibrate
    from edgeinfer.decode.policy.costs import RowCosts

    if sides.subject in log.log.costs:
        return
    max_rows = min(MAX_ROWS, sides.plain_model.exact_rows or MAX_ROWS)
    plain = calibrate(sides.plain_model, max_rows=max_rows, budget_s=budget_s)
    if sides.exit_model is None:
        log.add(Measured(sides.subject, plain, max_rows))
        return
    drafting = calibrate(sides.exit_model, max_rows=max_rows, budget_s=budget_s)
    back, short = dict(drafting.back_s), {**drafting.back_short_s, 1: plain.plain_s}
    drafts_s = drafting.exit_draft_s, drafting.first_draft_s
    log.add(Measured(sides.subject, RowCosts(plain.verify_s, back, short, *drafts_s), max_rows))


def read_prompts(path: Path | None) -> list[Task]:
    """The prompts of a file; None: those of the package. Raises UsageError for a missing or different file."""
    path = path or Path(__file__).parents[1] / "data" / "prompts.jsonl"
    text = read_text(path, title=f"the prompts `{path}`", most_bytes=MAX_PROMPTS_BYTES, waiting=say)
    try:
        lines = [json.loads(line) for line in text.splitlines() if line.strip()]
        return [
            Task(
                index,
                str(line["kind"]),
                tuple(Message(message["role"], message["content"]) for message in line["messages"]),
                int(line["max_tokens"]),
            )
            for index, line in enumerate(lines)
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is not a file of prompts", hint="JSON lines with kind, messages, max_tokens"
        ) from error

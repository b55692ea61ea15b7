"""What `chat` and `run` do before the first answer: choose, say so, fetch what is missing, load."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgeinfer.cli.options import request_from
from edgeinfer.cli.output import say, size, whisper
from edgeinfer.errors import Canceled, DownloadFailed, UsageError

if TYPE_CHECKING:
    from edgeinfer.plan import Plan
    from edgeinfer.runner.session import Session

DEMO_HINT = "`--model demo` needs no download"


def plan_from(args: argparse.Namespace) -> Plan:
    from edgeinfer.runner.choose import choose

    return choose(request_from(args), offline=args.offline)


def say_choice(plan: Plan) -> None:
    """What was chosen unasked, and why."""
    say(f"{plan.model.title}, {plan.artifact.tier} on {plan.backend}: {size(plan.artifact.n_bytes)}")
    for reason in plan.reasons:
        whisper(f"  {reason}")
    whisper("  `edgeinfer plan` shows what was refused; `--model NAME` takes another")


def open_from(args: argparse.Namespace, plan: Plan) -> Session:
    """Raises what a download, a check or an engine raises, with the way out in the hint."""
    from edgeinfer.runner.opening import local_path, open_plan

    if plan.forced:
        say(
            f"warning: --force: {plan.model.title} takes {size(plan.estimate.total_bytes)}, "
            f"and this machine can give {size(plan.budget_bytes)}"
        )
    path = local_path(plan.artifact) or fetch(args, plan)
    session = open_plan(plan, path, template=args.template)
    for note in session.notes:
        say(f"note: {note}")
    return session


def fetch(args: argparse.Namespace, plan: Plan) -> Path:
    from edgeinfer.cli.progress import Progress
    from edgeinfer.hub import pull

    artifact = plan.artifact
    what = f"{plan.model.title} {artifact.tier} ({size(artifact.n_bytes)})"
    if args.offline:
        raise DownloadFailed(
            f"{what} is not on this machine, and --offline was given",
            hint=f"`edgeinfer pull {plan.model.name}` with a network; {DEMO_HINT}",
        )
    if not args.yes:
        confirm(f"Download {what} from {artifact.repo}?")
    try:
        with Progress() as progress:
            return pull(artifact.repo, artifact.file, artifact.revision, sha256=artifact.sha256, progress=progress)
    except DownloadFailed as error:
        raise DownloadFailed(str(error), hint="; ".join(hint for hint in (error.hint, DEMO_HINT) if hint)) from error


def confirm(question: str) -> None:
    """Ask on stderr. Raises Canceled for no, UsageError where nobody can answer."""
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Nobody is there to answer", hint=f"`--yes` downloads without asking; {DEMO_HINT}")
    sys.stderr.write(f"{question} [Y/n] ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if answer.strip().lower() not in ("", "y", "yes") or not answer:
        raise Canceled("nothing was downloaded", hint=DEMO_HINT)

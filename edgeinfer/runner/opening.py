"""Opens a plan: finds or fetches its file, checks it, loads the model and puts the session together."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import edgeinfer
from edgeinfer import backends
from edgeinfer.catalog import Artifact
from edgeinfer.chat.template import CHATML, Renderer
from edgeinfer.decode.loop import Decoder
from edgeinfer.decode.strategy import build
from edgeinfer.errors import ArtifactBad, UsageError
from edgeinfer.hub.cache import locate
from edgeinfer.plan import Plan
from edgeinfer.runner.session import Parts, Session

__all__ = ["local_path", "open_plan"]

MAX_TEMPLATE_BYTES = 1024 * 1024


def local_path(artifact: Artifact) -> Path | None:
    """Where the artifact lies on this machine; None when it has to be fetched."""
    if artifact.embedded:
        path = Path(edgeinfer.__file__).parent / artifact.file
        if not path.exists():
            raise ArtifactBad(f"the embedded model is missing: {path}", hint="install edgeinfer again")
        return path
    if not artifact.repo:
        return Path(artifact.file)
    return locate(artifact.repo, artifact.file, artifact.revision)


def open_plan(plan: Plan, path: Path, *, template: str = "") -> Session:
    """Load the plan's model from `path`. `template` is a Jinja file in place of the model's own, or "chatml"."""
    source = read_template(template) if template else None
    with ExitStack() as stack:
        renderer = Renderer()
        stack.callback(renderer.close)
        model = backends.get(plan.backend).load(plan, path)
        stack.callback(model.close)
        strategy = build(model, plan)
        stack.callback(strategy.close)
        decoder = Decoder(model, plan.window, controller=strategy.controller, drafters=strategy.drafters)
        stack.callback(decoder.close)
        session = Session(plan, Parts(model, decoder, renderer, source))
        stack.pop_all()
    return session


def read_template(name: str) -> str:
    if name == "chatml":
        return CHATML
    try:
        data = Path(name).read_bytes()[: MAX_TEMPLATE_BYTES + 1]
        if len(data) > MAX_TEMPLATE_BYTES:
            raise UsageError(f"the template `{name}` is larger than {MAX_TEMPLATE_BYTES} bytes")
        return data.decode("utf-8")
    except OSError as error:
        raise UsageError(f"cannot read the template `{name}`: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the template `{name}` is not UTF-8") from error

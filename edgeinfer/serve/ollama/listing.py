"""`GET /api/tags`, `/api/ps`, `/api/version` and `POST /api/show`: what is served, as Ollama's clients read it."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from edgeinfer import __version__
from edgeinfer.serve.http.reading import Body, ParameterError, read_body
from edgeinfer.serve.models import Models
from edgeinfer.serve.served import ServedModel

__all__ = ["ShowBody", "ps", "show", "tags", "version"]

SPOKEN = "0.14.2"  # the version of Ollama whose API this is: clients refuse to talk to older ones
NEVER = datetime(9999, 1, 1, tzinfo=UTC).isoformat()  # the model stays loaded


class ShowBody(Body):
    model: str | None = None
    name: str | None = None  # the former spelling
    verbose: bool | None = None


async def tags(request: Request) -> Response:
    models: Models = request.app.state.models
    return JSONResponse({"models": [entry(one) for one in models]})


async def ps(request: Request) -> Response:
    models: Models = request.app.state.models
    return JSONResponse({"models": [running_entry(one) for one in models]})


async def version(request: Request) -> Response:
    del request
    return JSONResponse({"version": SPOKEN, "edgeinfer": __version__})


async def show(request: Request) -> Response:
    models: Models = request.app.state.models
    body = await read_body(request, ShowBody)
    name = body.model or body.name
    if not name:
        raise ParameterError("`model` is missing", parameter="model")
    served = models.find(name)
    plan, shape = served.plan, served.plan.model.shape
    architecture = shape.architecture
    return JSONResponse(
        {
            "license": plan.model.license,
            "modelfile": "",
            "parameters": f"num_ctx {plan.window.slots}",
            "template": served.template_source,
            "details": details(served),
            "model_info": {
                "general.architecture": architecture,
                f"{architecture}.context_length": plan.window.slots,
                f"{architecture}.block_count": shape.n_layers,
                f"{architecture}.embedding_length": shape.hidden,
            },
            "capabilities": ["completion", "tools", *(["thinking"] if served.thinks else [])],
            "modified_at": modified_at(served),
        }
    )


def entry(served: ServedModel) -> dict[str, object]:
    artifact = served.plan.artifact
    return {
        "name": served.name,
        "model": served.name,
        "modified_at": modified_at(served),
        "size": artifact.n_bytes,
        "digest": artifact.sha256.removeprefix("sha256:"),
        "details": details(served),
    }


def running_entry(served: ServedModel) -> dict[str, object]:
    plan = served.plan
    on_gpu = plan.estimate.total_bytes if plan.device.accelerators else 0
    return {
        **entry(served),
        "size": plan.estimate.total_bytes,
        "size_vram": on_gpu,
        "expires_at": NEVER,
        "context_length": plan.window.slots,
    }


def details(served: ServedModel) -> dict[str, object]:
    plan = served.plan
    family = plan.model.shape.architecture
    return {
        "parent_model": "",
        "format": plan.backend,
        "family": family,
        "families": [family],
        "parameter_size": size_in_words(plan.model.shape.n_params),
        "quantization_level": plan.artifact.tier,
    }


def size_in_words(n_parameters: int) -> str:
    return f"{n_parameters / 1e9:.1f}B" if n_parameters >= 1e9 else f"{n_parameters / 1e6:.0f}M"


def modified_at(served: ServedModel) -> str:
    return datetime.fromtimestamp(served.started_s, UTC).isoformat()

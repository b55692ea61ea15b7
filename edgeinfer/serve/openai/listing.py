"""`GET /v1/models`: as clients of OpenAI and of Anthropic read it."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from edgeinfer.serve.models import Models
from edgeinfer.serve.served import ServedModel

__all__ = ["list_models", "show_model"]


async def list_models(request: Request) -> Response:
    models: Models = request.app.state.models
    data = [model_object(one) for one in models]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"], "has_more": False}
    return JSONResponse({"object": "list", "data": data, **ends})


async def show_model(request: Request) -> Response:
    models: Models = request.app.state.models
    return JSONResponse(model_object(models.find(request.path_params["model"])))


def model_object(served: ServedModel) -> dict[str, object]:
    """`context_length` and `max_model_len` are read by some clients: what the window holds, and the longest prompt."""
    plan = served.plan
    return {
        "id": served.name,
        "object": "model",
        "created": served.started_s,
        "owned_by": "edgeinfer",
        "type": "model",
        "display_name": plan.model.title,
        "created_at": datetime.fromtimestamp(served.started_s, UTC).isoformat(),
        "context_length": plan.window.slots,
        "max_model_len": plan.window.limit,
        "edgeinfer": {
            "title": plan.model.title,
            "tier": plan.artifact.tier,
            "backend": plan.backend,
            "kv_type": plan.kv_type,
            "window": plan.window.slots,
            "sink": plan.window.sink,
            "conversations": plan.n_conversations,
            "exact": served.exact,
        },
    }

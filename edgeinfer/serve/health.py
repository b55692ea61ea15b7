"""`GET /health`, and `GET /metrics` in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from edgeinfer.serve.engine.counts import Counts
from edgeinfer.serve.engine.scheduler import Scheduler
from edgeinfer.serve.engine.slots import PrefixFigures
from edgeinfer.serve.models import Models
from edgeinfer.serve.served import ServedModel

__all__ = ["health", "metrics"]

HELD_PREFIXES = frozenset({"memory_bytes", "memory_blocks", "disk_bytes", "disk_blocks"})  # the others only grow


async def health(request: Request) -> Response:
    """503 when the engine cannot answer any more. It does not wait for the engine."""
    models: Models = request.app.state.models
    why = models.stalled
    if why:
        return JSONResponse({"status": "error", "error": {"message": why}}, 503)
    return JSONResponse({"status": "ok"})


async def metrics(request: Request) -> Response:
    models: Models = request.app.state.models
    lines = list(metric_lines(models))
    return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")


def metric_lines(models: Models) -> Iterator[str]:
    for field in fields(Counts):
        name = f"edgeinfer_{field.name.replace('_s', '_seconds')}_total"
        yield f"# TYPE {name} counter"
        for served in models:
            yield f"{name}{label(served)} {getattr(served.scheduler.counts, field.name)}"
    for field in fields(PrefixFigures):
        held = field.name in HELD_PREFIXES
        name = f"edgeinfer_prefix_{field.name}" + ("" if held else "_total")
        yield f"# TYPE {name} {'gauge' if held else 'counter'}"
        for served in models:
            yield f"{name}{label(served)} {getattr(served.prefixes.figures, field.name)}"
    gauges: dict[str, Callable[[Scheduler], float]] = {
        "running": lambda scheduler: scheduler.n_running,
        "waiting": lambda scheduler: scheduler.n_waiting,
        "conversations": lambda scheduler: scheduler.n_slots,
        "chunk_budget_seconds": lambda scheduler: scheduler.pace.budget_s(max(1, scheduler.n_running)),
    }
    for gauge, value in gauges.items():
        yield f"# TYPE edgeinfer_{gauge} gauge"
        for served in models:
            yield f"edgeinfer_{gauge}{label(served)} {value(served.scheduler)}"


def label(served: ServedModel) -> str:
    """A file may have any name."""
    name = served.name.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'{{model="{name}"}}'

"""edgeinfer runs a language model on the device in front of you.

    import edgeinfer

    with edgeinfer.load("demo") as model:
        chat = model.chat(system="You are brief.")
        print(chat.ask("Hi").text)

`choose` says what `load` would take, and why. Errors are in `edgeinfer.errors`; each has a `hint`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeinfer import errors
from edgeinfer.errors import EdgeInferError

if TYPE_CHECKING:
    from edgeinfer.catalog.entry import Artifact, LayerKv, ModelEntry, ModelShape, TaughtDraft
    from edgeinfer.chat.thinking import Segment
    from edgeinfer.decode.stats import AnswerStats, ArmStats
    from edgeinfer.device.profile import DeviceProfile, EngineSpeed
    from edgeinfer.device.row_times import RowTimes
    from edgeinfer.plan.facts import BackendFacts, Capabilities, Exporting
    from edgeinfer.plan.types import Estimate, Plan, PlannedFile, Rejection, Request, SpeculationPlan
    from edgeinfer.protocols import Tokenizer
    from edgeinfer.runner.answer import Answer, AnswerOptions, AnswerStream
    from edgeinfer.runner.chat import Chat
    from edgeinfer.runner.choose import choose
    from edgeinfer.runner.model import LoadedModel
    from edgeinfer.runner.opening import Downloads, GivenTemplate, load, open  # noqa: A004
    from edgeinfer.types import GREEDY, Message, Sampling, ToolCall
    from edgeinfer.window import WindowPolicy

__version__ = "0.1.0"
__all__ = [
    "GREEDY",
    "Answer",
    "AnswerOptions",
    "AnswerStats",
    "AnswerStream",
    "ArmStats",
    "Artifact",
    "BackendFacts",
    "Capabilities",
    "Chat",
    "DeviceProfile",
    "Downloads",
    "EdgeInferError",
    "EngineSpeed",
    "Estimate",
    "Exporting",
    "GivenTemplate",
    "LayerKv",
    "LoadedModel",
    "Message",
    "ModelEntry",
    "ModelShape",
    "Plan",
    "PlannedFile",
    "Rejection",
    "Request",
    "RowTimes",
    "Sampling",
    "Segment",
    "SpeculationPlan",
    "TaughtDraft",
    "Tokenizer",
    "ToolCall",
    "WindowPolicy",
    "choose",
    "errors",
    "load",
    "open",
]

_HOMES = {
    "catalog.entry": ("Artifact", "LayerKv", "ModelEntry", "ModelShape", "TaughtDraft"),
    "chat.thinking": ("Segment",),
    "decode.stats": ("AnswerStats", "ArmStats"),
    "device.profile": ("DeviceProfile", "EngineSpeed"),
    "device.row_times": ("RowTimes",),
    "plan.facts": ("BackendFacts", "Capabilities", "Exporting"),
    "plan.types": ("Estimate", "Plan", "PlannedFile", "Rejection", "Request", "SpeculationPlan"),
    "protocols": ("Tokenizer",),
    "runner.answer": ("Answer", "AnswerOptions", "AnswerStream"),
    "runner.chat": ("Chat",),
    "runner.choose": ("choose",),
    "runner.model": ("LoadedModel",),
    "runner.opening": ("Downloads", "GivenTemplate", "load", "open"),
    "types": ("GREEDY", "Message", "Sampling", "ToolCall"),
    "window": ("WindowPolicy",),
}
_HOME_OF = {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import at first use: `edgeinfer --help` must not pay for an engine."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

"""The engines. A backend is one folder and one line in FACTS; its engine is imported when a plan asks for it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from edgeinfer.backends.executorch.facts import FACTS as EXECUTORCH
from edgeinfer.backends.gguf.facts import FACTS as GGUF
from edgeinfer.backends.mlx.facts import FACTS as MLX
from edgeinfer.backends.reference.facts import FACTS as REFERENCE
from edgeinfer.errors import BackendError

if TYPE_CHECKING:
    from edgeinfer.plan.facts import BackendFacts
    from edgeinfer.protocols import Backend

__all__ = ["FACTS", "facts_of", "get"]

FACTS: tuple[BackendFacts, ...] = (
    GGUF,
    MLX,
    EXECUTORCH,
    REFERENCE,
)


def facts_of(name: str) -> BackendFacts:
    """Raises BackendError for a name that no backend of this program has."""
    for facts in FACTS:
        if facts.name == name:
            return facts
    names = ", ".join(facts.name for facts in FACTS)
    raise BackendError(f"there is no backend `{name}`", hint=f"backends: {names}")


def get(name: str) -> Backend:
    """The backend of this name. Raises BackendError for a name that no backend of this program has."""
    return cast("Backend", importlib.import_module(facts_of(name).package).BACKEND)

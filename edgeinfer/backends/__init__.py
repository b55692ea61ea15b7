"""The engines, one folder each, imported only when asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from edgeinfer.errors import BackendUnavailable

if TYPE_CHECKING:
    from edgeinfer.protocols import Backend

NAMES = ("gguf", "mlx", "reference")


def get(name: str) -> Backend:
    """The backend of this name. Raises BackendUnavailable for one that is not in this program."""
    if name not in NAMES:
        raise BackendUnavailable(f"there is no backend `{name}`", hint="backends: " + ", ".join(NAMES))
    return cast("Backend", importlib.import_module(f"edgeinfer.backends.{name}").BACKEND)

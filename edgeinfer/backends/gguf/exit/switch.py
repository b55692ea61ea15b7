"""The switch that forbids early exit on llama.cpp, which writes into llama.cpp's own memory. Imports no engine."""

from __future__ import annotations

import os
from typing import Final

from edgeinfer.errors import UsageError

SWITCH: Final = "EDGEINFER_PATCH_LLAMA"


def may_patch() -> bool:
    """Whether this process may write into llama.cpp's structs. Raises UsageError for any value but on and off."""
    value = os.environ.get(SWITCH, "on")
    if value not in ("on", "off"):
        raise UsageError(f"{SWITCH} is `{value}`", hint=f"{SWITCH}=on or {SWITCH}=off")
    return value == "on"

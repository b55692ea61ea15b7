"""The profile of the machine that this process runs on."""

from __future__ import annotations

import sys
from dataclasses import replace

from edgeinfer.device.profile import DeviceProfile
from edgeinfer.device.reached import read_reached
from edgeinfer.device.row_times import read_row_times
from edgeinfer.errors import EdgeInferError

__all__ = ["detect"]


def detect() -> DeviceProfile:
    """The profile now. Reads no model and imports no engine; memory is read again at each call."""
    found = _detect()
    return replace(found, reached=read_reached(found.machine), row_times=read_row_times(found.machine))


def _detect() -> DeviceProfile:
    if sys.platform == "darwin":
        from edgeinfer.device import macos

        return macos.profile()
    if sys.platform == "win32":
        from edgeinfer.device import windows

        return windows.profile()
    if sys.platform.startswith("linux"):
        from edgeinfer.device import linux

        return linux.profile()
    raise EdgeInferError(f"edgeinfer cannot detect the hardware of {sys.platform}", hint="plan with --device NAME")

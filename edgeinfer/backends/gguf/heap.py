"""Makes glibc return large buffers that an engine frees."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from typing import Final

__all__ = ["return_large_buffers"]

_M_MMAP_THRESHOLD: Final = -3  # malloc.h
_LARGE_BYTES: Final = 8 << 20  # more than the logits of a row, which are copied for every token


def return_large_buffers() -> None:
    """Give freed buffers of 8 MiB and more back to the system at once.

    glibc raises its own limit to the size of the largest buffer that was freed, and keeps later ones in its heap: the
    scratch contexts of a first start then cost 14 MB more than the plan says.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)

"""Metal's memory limits, read through the Objective-C runtime without importing an engine."""

from __future__ import annotations

import ctypes
import ctypes.util
from dataclasses import dataclass

__all__ = ["MetalMemory", "ask"]


@dataclass(frozen=True, slots=True)
class MetalMemory:
    """Bytes. Weights larger than `max_buffer_bytes` have to be split over buffers."""

    working_set_bytes: int
    max_buffer_bytes: int


def ask() -> MetalMemory | None:
    """`recommendedMaxWorkingSetSize` and `maxBufferLength` of the default device; None where there is no Metal."""
    try:
        # a command-line program is given a default device only when Core Graphics is loaded
        ctypes.CDLL("/System/Library/Frameworks/CoreGraphics.framework/CoreGraphics")
        metal = ctypes.CDLL("/System/Library/Frameworks/Metal.framework/Metal")
        objc = ctypes.CDLL(ctypes.util.find_library("objc") or "libobjc.dylib")
    except OSError:
        return None
    metal.MTLCreateSystemDefaultDevice.restype = ctypes.c_void_p
    metal.MTLCreateSystemDefaultDevice.argtypes = []
    device = metal.MTLCreateSystemDefaultDevice()
    if not device:
        return None
    objc.sel_registerName.restype = ctypes.c_void_p
    objc.sel_registerName.argtypes = [ctypes.c_char_p]
    try:
        return MetalMemory(
            working_set_bytes=_send(objc, device, b"recommendedMaxWorkingSetSize", ctypes.c_uint64),
            max_buffer_bytes=_send(objc, device, b"maxBufferLength", ctypes.c_uint64),
        )
    finally:
        _send(objc, device, b"release", None)


def _send(objc: ctypes.CDLL, receiver: int, selector: bytes, result: type[ctypes.c_uint64] | None) -> int:
    # objc_msgSend has no prototype of its own: arm64 needs it called through one that has the real return type
    call = ctypes.CFUNCTYPE(result, ctypes.c_void_p, ctypes.c_void_p)(("objc_msgSend", objc))
    return int(call(receiver, objc.sel_registerName(selector)) or 0)

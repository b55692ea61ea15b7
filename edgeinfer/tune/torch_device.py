"""Where torch computes (a CUDA GPU, Apple's GPU, or the CPU), in which type, and with how much memory."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Final

import torch

from edgeinfer.errors import BackendError

__all__ = ["NAMES", "TorchDevice", "free_bytes", "torch_device"]

NAMES: Final = ("cuda", "mps", "cpu")
_RESERVE: Final = 1 / 12  # of a GPU's free memory, as the planner leaves of a device's


@dataclass(frozen=True, slots=True)
class TorchDevice:
    name: str
    title: str
    dtype: torch.dtype

    @property
    def is_gpu(self) -> bool:
        return self.name != "cpu"

    @property
    def value_bytes(self) -> int:
        return int(self.dtype.itemsize)


def torch_device(name: str = "") -> TorchDevice:
    """The named device, or the fastest one here. Raises BackendError for a device that is missing."""
    here = [one for one in NAMES if _is_here(one)]
    if name and name not in here:
        raise BackendError(f"torch finds no {name} device", hint=f"--device {' or '.join(here)}")
    name = name or here[0]
    if name == "cuda":
        return TorchDevice(name, str(torch.cuda.get_device_name()), torch.bfloat16)
    if name == "mps":
        return TorchDevice(name, "Apple GPU", torch.float32)
    return TorchDevice(name, f"CPU, {torch.get_num_threads()} threads", _faster_type())


def free_bytes(device: TorchDevice, planned_bytes: int) -> int:
    """Bytes that teaching may take: a CUDA GPU's own memory, or else the plan's budget."""
    if device.name != "cuda":
        return planned_bytes
    free, _ = torch.cuda.mem_get_info()
    return int(free * (1 - _RESERVE))


def _is_here(name: str) -> bool:
    return name == "cpu" or bool((torch.cuda if name == "cuda" else torch.mps).is_available())


def _faster_type() -> torch.dtype:
    """bfloat16 on a CPU that multiplies it twice as fast as float32, else float32."""
    seconds = {dtype: min(_product_s(dtype) for _ in range(5)) for dtype in (torch.float32, torch.bfloat16)}
    return torch.bfloat16 if 2 * seconds[torch.bfloat16] < seconds[torch.float32] else torch.float32


def _product_s(dtype: torch.dtype) -> float:
    a = torch.ones((256, 1024), dtype=dtype)
    b = torch.ones((1024, 1024), dtype=dtype)
    began = perf_counter()
    a @ b
    return perf_counter() - began

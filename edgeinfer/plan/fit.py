"""What fits a device: its memory budget, the window for a context, and the speed of decoding."""

from __future__ import annotations

import math
import re
from typing import Final

from edgeinfer.catalog.entry import Artifact
from edgeinfer.device.profile import DeviceProfile, EngineSpeed
from edgeinfer.errors import UsageError
from edgeinfer.shape import ModelShape
from edgeinfer.window import MIN_BLOCK, WindowPolicy

__all__ = [
    "DEFAULT_CONTEXT",
    "budget_bytes",
    "check_context",
    "expected_tokens_per_s",
    "make_policy",
    "read_bytes",
    "reserve_bytes",
    "steps",
    "tokens_per_s",
]

DEFAULT_CONTEXT: Final = 4096  # tokens for a comfortable chat
_DEFAULT_SINK: Final = 128
_BLOCKS: Final = 8  # of a window
_MIN_WINDOW: Final = 4 * MIN_BLOCK

_UNKNOWN_SPEED: Final = EngineSpeed("", efficiency=0.5, layer_s=200e-6)  # for a device without known values


def check_context(context: int, sink: int | None) -> None:
    """Raises UsageError for a context that no model could have."""
    if context - (sink or 0) < _MIN_WINDOW:
        raise UsageError(
            f"context must hold {_MIN_WINDOW} recent tokens and the sink; received {context} with sink {sink or 0}",
            hint=f"--context {_MIN_WINDOW + (sink or 0)} is the smallest",
        )


def make_policy(shape: ModelShape, context: int, sink: int | None) -> WindowPolicy:
    """The policy with the largest `sink + window` up to `context` tokens. Raises UsageError where none fits."""
    check_context(context, sink)
    if sink is None:
        sink = min(_DEFAULT_SINK, context - _MIN_WINDOW)
    if context > shape.limit:
        raise UsageError(
            f"context must not pass the model's {shape.limit} positions; received {context}",
            hint=f"--context {shape.limit} is the largest",
        )
    window = context - sink
    step = _BLOCKS if window >= _BLOCKS * MIN_BLOCK else MIN_BLOCK
    window -= window % step
    limit = shape.short_limit if shape.short_limit and sink + window <= shape.short_limit else shape.limit
    return WindowPolicy(window, sink, max(MIN_BLOCK, window // _BLOCKS), limit)


def steps(shape: ModelShape) -> list[int]:
    """Contexts to choose from, smallest first: powers of two from the default, and the model's limit."""
    sizes = []
    size = DEFAULT_CONTEXT
    while size < shape.limit:
        sizes.append(size)
        size *= 2
    return [*sizes, shape.limit]


def reserve_bytes(device: DeviceProfile) -> int:
    """Memory that a plan leaves free: one twelfth.

    On a 24 GB Mac a plan 0.8 GB below Metal's ceiling ran out of memory, and one 1.6 GB below it ran.
    """
    return max(256 << 20, min(device.ceiling_bytes, device.available_bytes) // 12)


def budget_bytes(device: DeviceProfile, others_bytes: int = 0) -> int:
    """Bytes that a model may take beside others that take `others_bytes`."""
    return max(0, min(device.ceiling_bytes, device.available_bytes) - reserve_bytes(device) - others_bytes)


def read_bytes(shape: ModelShape, artifact: Artifact) -> float:
    """Weight bytes that one token reads: the experts that run, no per-layer embeddings, no untied input table."""
    return artifact.n_bytes * shape.n_active_params / shape.n_params


def expected_tokens_per_s(
    device: DeviceProfile, shape: ModelShape, artifact: Artifact, kv_read_bytes: float = 0.0
) -> float:
    """Tokens per second of plain decoding with `kv_read_bytes` of K and V in view (0: a short chat).

    Each weight that a token needs crosses the memory bus once and is multiplied, and each layer adds a time of its own.
    """
    engine = _engine_speed(device, artifact)
    seconds = _weights_s(device, engine, shape, artifact) + engine.layers_s(shape.n_layers, device.n_cores)
    return _per_s(seconds + _read_s(device, engine, "", kv_read_bytes))


def tokens_per_s(device: DeviceProfile, shape: ModelShape, artifact: Artifact, kv_read_bytes: float = 0.0) -> float:
    """The speed that this file reached on this device, corrected for `kv_read_bytes`; if it has not run, the expected
    speed."""
    reached = device.reached.get(artifact.key, 0.0)
    if not reached:
        return expected_tokens_per_s(device, shape, artifact, kv_read_bytes)
    return _per_s(1.0 / reached + _read_s(device, _engine_speed(device, artifact), "", kv_read_bytes))


def _engine_speed(device: DeviceProfile, artifact: Artifact) -> EngineSpeed:
    return next((speed for speed in device.speeds if speed.backend == artifact.backend), _UNKNOWN_SPEED)


def _weights_s(device: DeviceProfile, engine: EngineSpeed, shape: ModelShape, artifact: Artifact) -> float:
    """For a file that was not read, all weights count as the type that names its tier."""
    tensors = artifact.tensors or ((re.sub(r"_[SMLX]+$", "", artifact.tier), read_bytes(shape, artifact)),)
    head, n_head = artifact.head
    rest = ((name, n_bytes - n_head if name == head else n_bytes) for name, n_bytes in tensors)
    return sum(_read_s(device, engine, *one) for one in rest) + _read_s(device, engine, head, n_head, of_head=True)


def _read_s(
    device: DeviceProfile, engine: EngineSpeed, tensor_type: str, n_bytes: float, *, of_head: bool = False
) -> float:
    per_s = engine.bytes_per_s(tensor_type, device.bandwidth_bytes_per_s, device.n_cores, of_head=of_head)
    return n_bytes / per_s if per_s > 0 else math.inf


def _per_s(seconds: float) -> float:
    return 1.0 / seconds if seconds > 0 else 0.0

"""Expected decode speed: each weight that a token needs crosses the bus once; each layer costs a little besides."""

from __future__ import annotations

from edgeinfer.catalog.entry import Artifact, ModelShape
from edgeinfer.device.profile import DeviceProfile, EngineSpeed

__all__ = ["expected_tokens_per_s", "read_bytes"]

_UNKNOWN = EngineSpeed("", efficiency=0.5, layer_s=200e-6)  # where nothing is known of the device


def read_bytes(shape: ModelShape, artifact: Artifact) -> float:
    """Weight bytes that one token reads: the experts that run, no per-layer embeddings, no untied input table."""
    return artifact.n_bytes * shape.n_active_params / shape.n_params


def expected_tokens_per_s(
    device: DeviceProfile, shape: ModelShape, artifact: Artifact, kv_read_bytes: float = 0.0
) -> float:
    """Tokens per second of plain decoding with `kv_read_bytes` of K and V in view (0: a short chat)."""
    engine = next((speed for speed in device.speeds if speed.backend == artifact.backend), _UNKNOWN)
    per_s = engine.efficiency * device.bandwidth_bytes_per_s
    if engine.core_bytes_per_s:
        per_s = min(per_s, engine.core_bytes_per_s * device.n_cores)
    if per_s <= 0:
        return 0.0
    return 1.0 / ((read_bytes(shape, artifact) + kv_read_bytes) / per_s + shape.n_layers * engine.layer_s)

"""What the backends of a named device would be: nothing can be probed there."""

from __future__ import annotations

from edgeinfer.device.profile import DeviceProfile
from edgeinfer.plan.types import Capabilities
from edgeinfer.types import KvType

__all__ = ["GGUF_KV_TYPES", "default_capabilities"]

# V in 16 bits first: on AVX2 it makes four rows of the demo cost 2.0 plain ones instead of 2.3 and one row no more,
# and several rows still round as single ones, which f16 for both does not (gguf's Model.exact_rows).
GGUF_KV_TYPES: tuple[KvType, ...] = ("q8_0/f16", "q8_0", "f16", "q4_0")
GGUF_TIERS = frozenset(
    {"F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "Q4_0", "IQ4_XS", "IQ4_NL", "Q3_K_M"}
)
MLX_TIERS = frozenset({"mlx-4bit-g64", "mlx-8bit-g64", "mlx-bf16", "Q4_0", "Q8_0", "F16"})


def default_capabilities(device: DeviceProfile) -> tuple[Capabilities, ...]:
    """GGUF wherever there is a CPU, MLX on Apple-silicon Macs."""
    found = [Capabilities("gguf", GGUF_TIERS, GGUF_KV_TYPES, early_exit=True)]
    if device.os == "macos" and "metal" in device.accelerators:
        found.append(Capabilities("mlx", MLX_TIERS, ("f16", "q8_0"), early_exit=True))
    return tuple(found)

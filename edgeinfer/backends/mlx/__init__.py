"""MLX on Apple unified memory, with the Metal kernels of this project."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from edgeinfer.backends.engine_errors import maps_engine_errors
from edgeinfer.device.profile import DeviceProfile
from edgeinfer.errors import NoPlanFits
from edgeinfer.plan.types import Capabilities, Plan
from edgeinfer.protocols import Model

TIERS = frozenset({"mlx-4bit-g64", "mlx-6bit-g64", "mlx-8bit-g64", "mlx-bf16", "Q4_0", "Q4_1", "Q8_0", "F16", "F32"})
INSTALL = "pip install 'edgeinfer[mlx]'"


@maps_engine_errors("MLX")
class MlxBackend:
    name = "mlx"

    def probe(self, device: DeviceProfile) -> Capabilities:
        """Versions and why MLX cannot run here. Looks for the packages without importing them."""
        versions = {name: version for name in ("mlx", "mlx-lm") if (version := _version(name))}
        unavailable, hint = "", ""
        if len(versions) < 2:
            missing = " and ".join(name for name in ("mlx", "mlx-lm") if name not in versions)
            unavailable, hint = f"{missing} not installed", INSTALL
        elif "metal" not in device.accelerators:
            unavailable, hint = f"{device.chip} has no Metal GPU", "use --backend gguf"
        return Capabilities(
            backend=self.name,
            tiers=TIERS,
            kv_types=("f16", "q8_0", "q4_0"),
            early_exit=True,
            versions=versions,
            unavailable=unavailable,
            hint=hint,
        )

    def load(self, plan: Plan, path: Path) -> Model:
        """Raises NoPlanFits when the plan is over its budget: MLX is never asked to load that."""
        if plan.estimate.total_bytes > plan.budget_bytes and not plan.forced:
            over = (plan.estimate.total_bytes - plan.budget_bytes) / 1e6
            raise NoPlanFits(f"{plan.model.title} is {over:.0f} MB over the budget", hint="lower --context or --tier")
        from edgeinfer.backends.mlx.limits import apply_limits
        from edgeinfer.backends.mlx.model import load

        apply_limits(plan)
        return load(plan, path)


def kernels_in_use() -> str:
    """Which Metal kernels a model would use here, and why others are left out, for `doctor`. Imports MLX."""
    from edgeinfer.backends.mlx.kernels import choose_kernels

    kernels = choose_kernels()
    left_out = [f"{name} left out: {why}" for name, why in sorted(kernels.failed.items())]
    return "; ".join([", ".join(sorted(kernels.names)) or "none", *left_out])


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


BACKEND = MlxBackend()

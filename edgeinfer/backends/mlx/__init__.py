"""MLX on Apple unified memory, with the Metal kernels of this project."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgeinfer.backends.engine_errors import maps_engine_errors
from edgeinfer.backends.mlx.facts import FACTS
from edgeinfer.errors import NoPlanError
from edgeinfer.plan.facts import Probe, installed_version
from edgeinfer.plan.types import Plan
from edgeinfer.protocols import Model

INSTALL = "pip install 'edgeinfer[mlx]'"


@maps_engine_errors("MLX")
class MlxBackend:
    """See protocols.Backend."""

    name = FACTS.name

    def probe(self) -> Probe:
        """Looks for the packages without importing them."""
        versions = {name: found for name in ("mlx", "mlx-lm") if (found := installed_version(name))}
        missing = " and ".join(name for name in ("mlx", "mlx-lm") if name not in versions)
        return Probe(versions, f"{missing} not installed", INSTALL) if missing else Probe(versions)

    def report(self) -> Mapping[str, str]:
        """Which Metal kernels a model would use here, and why others are left out. Imports MLX."""
        from edgeinfer.backends.mlx.kernels import choose_kernels

        kernels = choose_kernels()
        left_out = [f"{name} left out: {why}" for name, why in sorted(kernels.failed.items())]
        return {"Metal kernels": "; ".join([", ".join(sorted(kernels.names)) or "none", *left_out])}

    def forget(self, path: Path) -> None:
        """Nothing is kept about a model."""

    def before_load(self, plan: Plan, path: Path) -> str:  # noqa: ARG002
        return ""

    def load(self, plan: Plan, path: Path) -> Model:
        """Raises NoPlanError when the plan is over its budget: MLX is never asked to load that."""
        if plan.estimate.total_bytes > plan.budget_bytes and not plan.forced:
            over = (plan.estimate.total_bytes - plan.budget_bytes) / 1e6
            raise NoPlanError(f"{plan.model.title} is {over:.0f} MB over the budget", hint="lower --context or --tier")
        from edgeinfer.backends.mlx.limits import apply_limits
        from edgeinfer.backends.mlx.model import load

        apply_limits(plan)
        return load(plan, path)


BACKEND = MlxBackend()

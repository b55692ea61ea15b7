"""ExecuTorch on the processor: exported programs, run by a small C++ engine. Importing this imports no engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgeinfer.backends.engine_errors import maps_engine_errors
from edgeinfer.backends.executorch.facts import FACTS
from edgeinfer.errors import ArtifactError, BackendError
from edgeinfer.formats.bundle import check_bundle
from edgeinfer.plan.facts import Probe
from edgeinfer.plan.types import Plan
from edgeinfer.protocols import Model

__all__ = ["BACKEND", "ExecutorchBackend"]


@maps_engine_errors("ExecuTorch")
@maps_engine_errors("ExecuTorch")
class ExecutorchBackend:
    """See protocols.Backend."""

    name = FACTS.name

    def probe(self) -> Probe:
        """Looks for the wheel and for a compiler without using either."""
        from edgeinfer.backends.executorch.build import check_buildable, executorch_version

        try:
            versions = {"executorch": executorch_version()}
            check_buildable()
        except BackendError as error:
            return Probe(unavailable=str(error), hint=error.hint)
        return Probe(versions)

    def report(self) -> Mapping[str, str]:
        """Whether the engine is compiled."""
        from edgeinfer.backends.executorch.build import built_library

        return {"engine": "compiled" if built_library().exists() else "is compiled on first use, in about a minute"}

    def forget(self, path: Path) -> None:
        """Delete the packed weights of the bundle at `path`."""
        from edgeinfer.backends.executorch.bundle import packed_cache

        try:
            packed = packed_cache(check_bundle(path))
        except (ArtifactError, BackendError):
            return
        if packed is not None:
            packed.unlink(missing_ok=True)

    def before_load(self, plan: Plan, path: Path) -> str:  # noqa: ARG002
        from edgeinfer.backends.executorch.build import built_library

        return "" if built_library().exists() else "compiling the engine, once; this takes about a minute"

    def load(self, plan: Plan, path: Path) -> Model:
        """Raises ArtifactError for a folder that is no bundle, and BackendError without a compiler."""
        from edgeinfer.backends.executorch.bundle import load_bundle

        return load_bundle(path, n_threads=plan.n_threads, drafts=plan.taught is not None)


BACKEND = ExecutorchBackend()

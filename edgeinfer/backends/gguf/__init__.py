"""llama.cpp, through the low-level API of llama-cpp-python. Importing this imports no engine."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from edgeinfer.backends.engine_errors import maps_engine_errors
from edgeinfer.backends.gguf.exit.switch import SWITCH, may_patch
from edgeinfer.backends.gguf.facts import FACTS
from edgeinfer.backends.gguf.heap import return_large_buffers
from edgeinfer.errors import ArtifactError, BackendError
from edgeinfer.plan.facts import Probe
from edgeinfer.plan.types import Plan

if TYPE_CHECKING:
    from edgeinfer.backends.gguf.model import GgufModel
    from edgeinfer.formats.gguf_header import GgufHeader

__all__ = ["BACKEND", "GgufBackend"]

_INSTALL = "pip install 'edgeinfer[gguf]' (needs a C++ compiler)"


@maps_engine_errors("llama.cpp")
class GgufBackend:
    """See protocols.Backend."""

    name = FACTS.name

    def probe(self) -> Probe:
        """Looks at the installed library without importing the binding, which takes a quarter of a second."""
        from edgeinfer.backends.gguf.probe import library_versions

        try:
            return Probe(library_versions(), no_early_exit="" if may_patch() else f"{SWITCH}=off")
        except (OSError, ImportError, AttributeError, ValueError) as error:
            return Probe(unavailable=f"llama-cpp-python cannot be used: {error}", hint=_INSTALL)

    def report(self) -> Mapping[str, str]:
        """Which taught drafts this build of llama.cpp can run, and for which matrices there are kernels of our own."""
        from edgeinfer.backends.gguf.amx import amx_types, would_crash
        from edgeinfer.backends.gguf.kernels.library import types_with_kernels, why_not
        from edgeinfer.backends.gguf.probe import gives_states
        from edgeinfer.device import detect

        amx = f"for {', '.join(sorted(amx_types()))}" if amx_types() else ""
        if would_crash():
            amx = "left out, because the compiler made it crash; docs/install.md helps"
        missing = "" if gives_states() else " only: this build does not give the states between layers"
        return {
            "taught drafts": f"exit{missing}" if missing else "exit and feature",
            "own kernels": why_not(detect()) or ", ".join(types_with_kernels()),
            **({"AMX": amx} if amx else {}),
        }

    def forget(self, path: Path) -> None:
        """Deletes the outcomes of self-tests and the layers of drafts."""
        from edgeinfer.backends.gguf.draft.kept_layers import remove_layers
        from edgeinfer.backends.gguf.exit import self_test_cache

        self_test_cache.remove(path)
        remove_layers(path)

    def before_load(self, plan: Plan, path: Path) -> str:
        from edgeinfer.backends.gguf.kernels import library
        from edgeinfer.formats.gguf_header import read_header

        if plan.device.accelerators or library.is_built():
            return ""
        _engine()
        builds = library.will_build(plan.device, _matrix_types(plan, read_header(path)))
        return "compiling kernels for this processor, once; this takes some seconds" if builds else ""

    def load(self, plan: Plan, path: Path) -> GgufModel:
        """Raises BackendError, ArtifactError (also for architectures that cannot roll back) and EngineError."""
        from edgeinfer.formats.artifact import check_artifact
        from edgeinfer.formats.draft_file import read_draft_for
        from edgeinfer.formats.gguf_header import GgufHeader
        from edgeinfer.formats.shape import shape_from_gguf

        header = check_artifact(path)
        if not isinstance(header, GgufHeader):
            raise ArtifactError(f"{path} is a folder; llama.cpp loads one .gguf file")
        llama = _engine()
        from edgeinfer.backends.gguf.amx import amx_types
        from edgeinfer.backends.gguf.kernels.library import install as install_kernels
        from edgeinfer.backends.gguf.model import EngineSettings, GgufModel, is_repacked, rounding_note
        from edgeinfer.backends.gguf.threads import fastest_threads

        return_large_buffers()
        n_gpu_layers = -1 if plan.device.accelerators else 0
        types = _matrix_types(plan, header)
        no_kernel = {} if n_gpu_layers else install_kernels(plan.device, types)
        copied = is_repacked(header) or bool(types & amx_types())
        loaded = llama.load(header.parts or path, mmap=not copied, n_gpu_layers=n_gpu_layers)
        try:
            if loaded.refusal:
                raise ArtifactError(f"{path.name} cannot be used: {loaded.refusal}", hint="choose another model")
            n_threads = plan.n_threads or fastest_threads(loaded, plan.device.n_cores)
            exact_types = amx_types().union(name for name, reason in no_kernel.items() if not reason)
            settings = EngineSettings(n_threads, plan.kv_type, n_gpu_layers, exact_types)
            model = GgufModel(loaded, header, settings, n_caches=plan.n_conversations, policy=plan.window)
            if plan.speculation.exit_layer is not None:
                model.draft_with(plan.speculation.exit_layer, path)
            if plan.taught is not None:
                draft = read_draft_for(Path(plan.taught.file), shape_from_gguf(header))
                model.draft_by_file(draft.with_vocabulary(plan.taught.n_ranked), path)
            if plan.speculation.drafters:
                rounding = rounding_note(header, settings, no_own_rows=no_kernel.get("F16", ""))
                model.note = "; ".join(note for note in (model.note, rounding) if note)
            return model
        except BaseException:
            loaded.close()
            raise


def _matrix_types(plan: Plan, header: GgufHeader) -> Set[str]:
    from edgeinfer.formats.shape import read_by_type

    return read_by_type(header).keys() | ({"Q8_0"} if plan.taught is not None else set())  # a draft's own layer


def _engine() -> ModuleType:
    try:
        from edgeinfer.backends.gguf import llama
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendError(f"llama-cpp-python cannot be used: {error}", hint=_INSTALL) from error
    return llama


BACKEND = GgufBackend()

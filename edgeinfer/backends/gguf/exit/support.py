"""Decides whether a loaded model can draft with its early layers, and prepares its caches for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from edgeinfer.backends.gguf.cache import GgufCache
from edgeinfer.backends.gguf.exit.contexts import ExitContexts
from edgeinfer.backends.gguf.exit.layout import TensorLayout, find_layout
from edgeinfer.backends.gguf.exit.round import ExitRound
from edgeinfer.backends.gguf.exit.switch import SWITCH, may_patch
from edgeinfer.backends.gguf.llama import Context, ContextOptions, LlamaModel
from edgeinfer.errors import EdgeInferError
from edgeinfer.shape import LayerKv
from edgeinfer.types import KvType

ARCHITECTURES: Final = ("llama", "qwen3")  # tested, past evictions


@dataclass(frozen=True, slots=True)
class Refused:
    """This model does not draft with its early layers, for `reason`."""

    reason: str


@dataclass(frozen=True, slots=True)
class ExitSupport:
    """How the caches of one model draft with layers [0, `exit_layer`)."""

    exit_layer: int
    layout: TensorLayout
    unused_kv_type: KvType  # of the memory that a sharing context allocates and never uses: the smallest type

    def open(self, model: LlamaModel, options: ContextOptions, owner: Context) -> ExitDrafting:
        """What lets the caches of `owner` draft. Raises EngineError when its contexts cannot be opened."""
        options = replace(options, kv_type=self.unused_kv_type)
        return ExitDrafting(ExitContexts(model, options, owner, self.exit_layer, self.layout))


class ExitDrafting:
    """See cache.Drafting."""

    def __init__(self, contexts: ExitContexts) -> None:
        self._contexts = contexts
        self.decode = contexts.owner.decode

    def attach(self, cache: GgufCache) -> None:
        cache.draft_by(lambda max_rows: ExitRound(cache, self._contexts, max_rows))

    def close(self) -> None:
        self._contexts.close()


def find_support(
    model: LlamaModel, exit_layer: int, options: ContextOptions, layers: Sequence[LayerKv]
) -> ExitSupport | Refused:
    """Writes nothing into llama.cpp yet. Raises UsageError when the switch is neither on nor off."""
    architecture = model.metadata("general.architecture") or "unknown"
    if not may_patch():
        return Refused(f"{SWITCH}=off forbids it")
    if architecture not in ARCHITECTURES:
        return Refused(f"early exit on llama.cpp supports {' and '.join(ARCHITECTURES)} models, not {architecture}")
    if not 0 < exit_layer < model.n_layers:
        return Refused(f"the file names exit layer {exit_layer}; the model has {model.n_layers} layers")
    if options.n_gpu_layers:
        return Refused("early exit on llama.cpp runs on the CPU only, and the model is on a GPU")
    # 4-bit V needs heads of whole blocks of 32 values
    small = all(layer.head_dim % 32 == 0 for layer in layers)
    try:
        return ExitSupport(exit_layer, find_layout(), "q4_0" if small else options.kv_type)
    except EdgeInferError as error:
        return Refused(str(error))

"""Whether and how a loaded model drafts with its early layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from edgeinfer.backends.gguf.cache import GgufCache
from edgeinfer.backends.gguf.exit.lanes import ExitLanes
from edgeinfer.backends.gguf.exit.layout import TensorLayout, find_layout
from edgeinfer.backends.gguf.exit.round import ExitRound
from edgeinfer.backends.gguf.llama import ContextOptions, LoadedModel
from edgeinfer.errors import EdgeInferError
from edgeinfer.shape import LayerKv
from edgeinfer.types import KvType

ARCHITECTURES: Final = ("llama", "qwen3")  # tested, past evictions


@dataclass(frozen=True, slots=True)
class EarlyExit:
    """How the caches of one model draft."""

    exit_layer: int
    layout: TensorLayout
    lane_kv_type: KvType  # of the lanes' own memory, which is never used: the smallest there is

    def equip(self, cache: GgufCache, model: LoadedModel, options: ContextOptions) -> None:
        """Let the rounds of `cache` draft, in lanes beside its context."""
        lane_options = replace(options, kv_type=self.lane_kv_type)
        lanes = ExitLanes(model, lane_options, cache.context, self.exit_layer, self.layout)
        cache.draft_by(lambda max_rows: ExitRound(cache, lanes, max_rows), lanes.close)


def early_exit(
    model: LoadedModel, exit_layer: int, options: ContextOptions, groups: Sequence[LayerKv]
) -> EarlyExit | str:
    """The way for this model, or the reason why there is none."""
    architecture = model.metadata("general.architecture") or "unknown"
    if architecture not in ARCHITECTURES:
        return f"{architecture} models cannot on llama.cpp, only {' and '.join(ARCHITECTURES)}"
    if not 0 < exit_layer < model.n_layers:
        return f"the file names exit layer {exit_layer}; the model has {model.n_layers} layers"
    if options.n_gpu_layers:
        return "it runs on the CPU only, and the model is on a GPU"
    # 4-bit V needs flash attention and heads of whole blocks
    small = options.flash_attention and all(group.head_dim % 32 == 0 for group in groups)
    try:
        return EarlyExit(exit_layer, find_layout(), "q4_0" if small else options.kv_type)
    except EdgeInferError as error:
        return str(error)

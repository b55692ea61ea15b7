"""A loaded MLX model: the stock mlx-lm module, cut in stages at its exit layer."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from edgeinfer.backends.engine_errors import maps_engine_errors
from edgeinfer.backends.mlx.adapter import Stages, find_inner, own_windows, refusal
from edgeinfer.backends.mlx.cache import MlxCache, MlxRound, engine_error
from edgeinfer.backends.mlx.joined import join_projections
from edgeinfer.backends.mlx.kernels import choose_kernels
from edgeinfer.backends.mlx.ring import KvBits
from edgeinfer.backends.mlx.routing import route_attention
from edgeinfer.backends.mlx.top1 import find_head
from edgeinfer.backends.mlx.weights import load_folder, load_gguf
from edgeinfer.backends.rounds import check_ids, run_in_turn
from edgeinfer.errors import ArtifactError, EngineError
from edgeinfer.formats.gguf_header import read_header
from edgeinfer.formats.gguf_split import n_parts
from edgeinfer.formats.gguf_tokenizer import GgufTokenizer
from edgeinfer.formats.hf_tokenizer import HfTokenizer
from edgeinfer.plan.types import Plan
from edgeinfer.protocols import Ask, Row, Tokenizer
from edgeinfer.types import DraftsWith
from edgeinfer.window import WindowPolicy

KV_BITS: dict[str, KvBits] = {"f32": None, "f16": None, "q8_0": 8, "q4_0": 4}


@maps_engine_errors("MLX")
class MlxModel:
    """`note` says why the model does not draft although the plan asked for it, or is ""."""

    exact_rows: int | None = None  # one row and several take different kernels, which round differently
    n_threads = 0
    n_caches = sys.maxsize  # a cache allocates its own rings

    def __init__(self, module: Any, tokenizer: Tokenizer, *, exit_layer: int | None, kv_bits: KvBits) -> None:
        self.tokenizer = tokenizer
        self.note = refusal(module, exit_layer) if exit_layer is not None else ""
        self.exit_layer = None if self.note else exit_layer
        self.drafts_with: DraftsWith = "early-exit" if self.exit_layer else ""
        self._kv_bits = kv_bits
        self._own_windows = own_windows(module)
        self._kernels = choose_kernels()
        route_attention(module)
        stages = Stages(module, self.exit_layer or 0)
        self._stages: Stages | None = stages
        self._head = find_head(module, stages, self._kernels)

    def run(self, asks: Sequence[Ask]) -> Sequence[Sequence[Row]]:
        for ask in asks:
            if isinstance(ask.round, MlxRound):
                check_ids(ask.tokens, ask.round.n_vocab)
        return run_in_turn(asks)

    def rest(self) -> None:
        pass

    def new_cache(self, policy: WindowPolicy) -> MlxCache:
        if self._stages is None:
            raise EngineError("this model is closed")
        return MlxCache(
            self._stages,
            policy,
            self._own_windows,
            kv_bits=self._kv_bits,
            kernels=self._kernels,
            head=self._head,
        )

    def close(self) -> None:
        self._stages = None
        mx.clear_cache()


def load(plan: Plan, path: Path) -> MlxModel:
    if path.is_dir():
        module, _ = load_folder(path)
        tokenizer: Tokenizer = HfTokenizer(path)
    else:
        header = read_header(path)
        if (n := n_parts(header)) > 1:
            raise ArtifactError(f"{path} is a model in {n} parts", hint="use --backend gguf")
        module, _ = load_gguf(path, header, mx.float32 if plan.kv_type == "f32" else mx.float16)
        tokenizer = GgufTokenizer(header)
    try:
        join_projections(list(find_inner(module)[2]["layers"]))
        mx.eval(module.parameters())
    except Exception as error:
        raise engine_error(error) from error
    return MlxModel(module, tokenizer, exit_layer=plan.speculation.exit_layer, kv_bits=KV_BITS[plan.kv_type])

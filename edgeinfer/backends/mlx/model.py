"""A loaded MLX model: the stock mlx-lm module, cut in stages at its exit layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from edgeinfer.backends.engine_errors import maps_engine_errors
from edgeinfer.backends.mlx.adapter import Stages, find_inner, own_windows, refusal
from edgeinfer.backends.mlx.cache import MlxCache, MlxRound
from edgeinfer.backends.mlx.forward import Forward
from edgeinfer.backends.mlx.joined import join_projections
from edgeinfer.backends.mlx.kernels import Kernels, choose_kernels
from edgeinfer.backends.mlx.packing import refusal as packing_refusal
from edgeinfer.backends.mlx.products import route_products
from edgeinfer.backends.mlx.ring import KvBits, RingLayer, Rings
from edgeinfer.backends.mlx.routing import route_attention
from edgeinfer.backends.mlx.rows import MlxRow, Pending, as_array, engine_error
from edgeinfer.backends.mlx.taught import MlxTaught
from edgeinfer.backends.mlx.top1 import find_head
from edgeinfer.backends.mlx.weights import load_folder, load_gguf
from edgeinfer.backends.reserve import PlannedCaches, Reserve
from edgeinfer.backends.rounds import check_tokens
from edgeinfer.errors import ArtifactError, EngineError
from edgeinfer.formats.draft_file import DraftFile, read_draft_for
from edgeinfer.formats.gguf_header import read_header
from edgeinfer.formats.gguf_split import n_parts
from edgeinfer.formats.gguf_tokenizer import GgufTokenizer
from edgeinfer.formats.hf_tokenizer import HfTokenizer
from edgeinfer.formats.shape import shape_from_gguf
from edgeinfer.plan.types import Plan
from edgeinfer.protocols import Ask, Row, Tokenizer
from edgeinfer.types import DraftsWith
from edgeinfer.window import WindowPolicy

KV_BITS: dict[str, KvBits] = {"f32": None, "f16": None, "q8_0": 8, "q4_0": 4}


@maps_engine_errors("MLX")
class MlxModel:
    """See protocols.Model. `note` says why the model does not draft although the plan asked for it, and why several
    conversations do not share a forward; "" if neither is so."""

    exact_rows: int | None = None  # one row and several take different kernels, which round differently
    n_threads = 0

    def __init__(
        self,
        module: Any,
        tokenizer: Tokenizer,
        *,
        exit_layer: int | None = None,
        kv_bits: KvBits = None,
        planned: PlannedCaches | None = None,
        kernels: Kernels | None = None,
        draft: DraftFile | None = None,
    ) -> None:
        """`draft` takes the place of an early exit. Raises ArtifactError for one that does not fit the model."""
        self.tokenizer = tokenizer
        self._kernels = kernels if kernels is not None else choose_kernels()
        self._taught = MlxTaught(draft, module, self._kernels, kv_bits) if draft is not None else None
        exit_layer = None if self._taught else exit_layer
        self.note = refusal(module, exit_layer) if exit_layer is not None else ""
        self.exit_layer = None if self.note else exit_layer
        self.drafts_with: DraftsWith = self._taught.kind if self._taught else "early-exit" if self.exit_layer else ""
        self.n_caches = planned.n if planned is not None else 1
        self._kv_bits = kv_bits
        self._own_windows = own_windows(module)
        route_attention(module)
        route_products(list(find_inner(module)[2]["layers"]), self._kernels)
        self._taps = self._taught.taps if self._taught else ()
        self._stages: Stages | None = Stages(module, self.exit_layer or 0, self._taps)
        self.n_vocab = int(self.stages.head(self._trace(None)).shape[-1])
        self._head = find_head(module, self.stages, self._kernels)
        self._reserved = Reserve(planned, self._new_rings)
        self._packs = False
        if self.n_caches > 1:
            why = packing_refusal(self)
            self._packs = not why
            self.note = "; ".join(filter(None, [self.note, why and f"conversations run one after the other: {why}"]))

    @property
    def stages(self) -> Stages:
        if self._stages is None:
            raise EngineError("this model is closed")
        return self._stages

    def run(self, asks: Sequence[Ask]) -> Sequence[Sequence[Row]]:
        check_tokens(asks, self.n_vocab)
        groups = [asks] if self._packs else [[ask] for ask in asks]
        return [rows for group in groups for rows in self.run_together(group)]

    def run_together(self, asks: Sequence[Ask]) -> list[list[MlxRow]]:
        """One forward for all asks. With several, only for a model whose rows can be packed."""
        rounds = [ask.round for ask in asks if isinstance(ask.round, MlxRound)]
        for step, ask in zip(rounds, asks, strict=True):
            step.ask(ask.tokens, ask.n_rows)
        hidden = self._late(rounds, asks, self._early(rounds, asks) if self.exit_layer else None)
        wanted = [rows[:, rows.shape[1] - ask.n_rows :] for rows, ask in zip(hidden, asks, strict=True)]
        pending = Pending([row for step in rounds for row in step.pending.waiting])
        rows = iter(self.rows(pending, mx.concatenate(wanted, axis=1)) if any(ask.n_rows for ask in asks) else [])
        for step, ask in zip(rounds, asks, strict=True):
            step.has_run(ask.n_rows)
        return [[next(rows) for _ in range(ask.n_rows)] for ask in asks]

    def rows(self, pending: Pending, hidden: mx.array) -> list[MlxRow]:
        """A row for each of hidden [1, T, D]; the tokens by head_top1 where there is one."""
        logits = self.stages.head(hidden)[0]
        if self._head is not None:
            tokens = self._kernels.head_top1(hidden[0], self._head).token
        else:
            tokens = mx.argmax(logits, axis=-1).astype(mx.int32)
        return [MlxRow(pending, logits[index], tokens[index]) for index in range(hidden.shape[1])]

    def rest(self) -> None:
        pass

    def new_cache(self, policy: WindowPolicy) -> MlxCache:
        drafts = self._taught.on(policy) if self._taught else None
        return MlxCache(self, policy, self._reserved.take(policy), self._reserved.give_back, drafts)

    def close(self) -> None:
        self._stages = None
        self._reserved = Reserve(None, self._new_rings)
        mx.clear_cache()

    def _early(self, rounds: Sequence[MlxRound], asks: Sequence[Ask]) -> list[mx.array]:
        """The states [1, T, D] of each ask at the exit layer. Those that the round drafted are not run again."""
        kept = [step.drafted(ask.tokens) for step, ask in zip(rounds, asks, strict=True)]
        rest = [list(ask.tokens[len(states) :]) for states, ask in zip(kept, asks, strict=True)]
        running = [index for index, tokens in enumerate(rest) if tokens]
        if running:
            forward = Forward([rounds[index].part(len(rest[index]), len(kept[index])) for index in running])
            tokens = forward.pack([as_array(rest[index]) for index in running])
            found = forward.unpack(self.stages.front(tokens, forward.layers))
            for index, states in zip(running, found, strict=True):
                kept[index] = [*kept[index], states]
        return [mx.concatenate(states, axis=1) for states in kept]

    def _late(
        self, rounds: Sequence[MlxRound], asks: Sequence[Ask], early: Sequence[mx.array] | None
    ) -> list[mx.array]:
        """The states [1, T, D] of each ask after the last layer."""
        forward = Forward([step.part(len(ask.tokens)) for step, ask in zip(rounds, asks, strict=True)])
        tokens = forward.pack([as_array(ask.tokens) for ask in asks])
        hidden = None if early is None else forward.pack(early)
        found = forward.unpack(self.stages.back(tokens, hidden, forward.layers))
        if self._taps:
            for step, states in zip(rounds, forward.unpack(self.stages.take_tapped()), strict=True):
                step.tap(states)
        return found

    def _new_rings(self, policy: WindowPolicy) -> Rings:
        """Each layer's K/V shape is learned by tracing a forward of one row; only the empty rings are evaluated."""
        rings = Rings(policy, self._own_windows, self._kernels, self._kv_bits)
        rings.span.place(0, 1)
        self._trace(rings.layers)
        rings.clear()
        rings.evaluate()
        return rings

    def _trace(self, layers: Sequence[RingLayer] | None) -> mx.array:
        """A forward of one row that is never evaluated; its states."""
        token = mx.zeros((1, 1), mx.int32)
        early = self.stages.front(token, layers) if self.exit_layer else None
        return self.stages.back(token, early, layers)


def load(plan: Plan, path: Path) -> MlxModel:
    shape = plan.model.shape
    if path.is_dir():
        module, _ = load_folder(path)
        tokenizer: Tokenizer = HfTokenizer(path)
    else:
        header = read_header(path)
        if (n := n_parts(header)) > 1:
            raise ArtifactError(f"{path} is a model in {n} parts", hint="use --backend gguf")
        module, _ = load_gguf(path, header, mx.float32 if plan.kv_type == "f32" else mx.float16)
        tokenizer, shape = GgufTokenizer(header), shape_from_gguf(header)
    draft = None
    if plan.taught is not None:
        draft = read_draft_for(Path(plan.taught.file), shape).with_vocabulary(plan.taught.n_ranked)
    try:
        join_projections(list(find_inner(module)[2]["layers"]))
        mx.eval(module.parameters())
    except Exception as error:
        raise engine_error(error) from error
    return MlxModel(
        module,
        tokenizer,
        exit_layer=plan.speculation.exit_layer,
        kv_bits=KV_BITS[plan.kv_type],
        planned=PlannedCaches(plan.n_conversations, plan.window),
        draft=draft,
    )

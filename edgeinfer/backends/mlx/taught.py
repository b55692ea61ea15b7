"""A taught draft on MLX: one stock Llama layer, for an exit draft after the model's first layers, and ranked rows of
the head. Nothing is evaluated before a row is read, so the drafts of a round are a part of its verify's graph.

The weights have the model's 16-bit type. `formats/draft_file.py` has the formulas.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from edgeinfer.backends.mlx.adapter import Stages, find_inner, own_windows
from edgeinfer.backends.mlx.facts import DRAFTED_ARCHITECTURES
from edgeinfer.backends.mlx.joined import join_projections
from edgeinfer.backends.mlx.kernels import Kernels, head_logits
from edgeinfer.backends.mlx.ring import KvBits, RingLayer, Rings
from edgeinfer.backends.mlx.routing import route_attention
from edgeinfer.backends.mlx.rows import MlxRow, Pending, as_array
from edgeinfer.backends.mlx.top1 import ranked_head
from edgeinfer.backends.taught import ExitDrafts, FeatureDrafts, TaughtDrafts
from edgeinfer.errors import ArtifactError
from edgeinfer.formats.draft_file import TAP_EPS, DraftFile
from edgeinfer.plan.facts import TAPPED_ROWS
from edgeinfer.protocols import TokenLike
from edgeinfer.window import WindowPolicy

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["MlxTaught"]


class MlxTaught:
    """The weights of a draft, shared by the conversations of its model. Raises ArtifactError for a model that it cannot
    draft for."""

    def __init__(self, file: DraftFile, module: Any, kernels: Kernels, kv_bits: KvBits) -> None:
        _, _, inner = find_inner(module)
        if file.shape.architecture not in DRAFTED_ARCHITECTURES or any(own_windows(module)):
            raise ArtifactError(f"MLX runs no draft of {file.shape.architecture} models", hint="leave --draft out")
        self.kind, self.taps = file.kind, file.taps
        dtype = inner["norm"].weight.dtype
        self._inputs = _Inputs(file, inner["embed_tokens"], dtype) if file.kind == "feature" else None
        self._width, self._dtype = len(file.taps) * file.shape.hidden, dtype
        self._n_vocab = file.shape.n_vocab
        self._ranked = mx.array(file.ranked_tokens)
        self._head = ranked_head(
            module, self._ranked, mx.array(file.tensor("output_norm")).astype(dtype), file.norm_eps
        )
        self._kernels = kernels
        self.layer = _Stack(file, module, dtype)
        self._kv_bits = kv_bits

    def on(self, policy: WindowPolicy) -> TaughtDrafts[mx.array]:
        """The drafts of a new conversation."""
        layer = _Layer(self.layer, Rings(policy, [0] * self.layer.n_layers, self._kernels, self._kv_bits), policy)
        if self._inputs is None:
            return ExitDrafts(layer, lambda tokens: as_array(tokens)[0], self._row)
        return FeatureDrafts(self._inputs, layer, _Table(self._width, self._dtype), self._row)

    def _row(self, state: mx.array) -> MlxRow:
        """The row of a state [hidden]; tokens that the draft does not rank have a logit of -inf."""
        token = self._ranked[self._kernels.head_top1(state[None], self._head).token[0]]
        logits = mx.full((self._n_vocab,), -mx.inf, mx.float32)
        logits[self._ranked] = head_logits(state[None], self._head)[0]
        return MlxRow(Pending(), logits, token)


class _Stack:
    """The layers that make a draft's state: the draft's own, after the model's first ones for an exit draft."""

    def __init__(self, file: DraftFile, module: Any, dtype: Any) -> None:
        from mlx_lm.models import llama

        _, _, inner = find_inner(module)
        shape = file.shape
        args = llama.ModelArgs(
            model_type="llama",
            hidden_size=shape.hidden,
            num_hidden_layers=1,
            intermediate_size=shape.n_ffn,
            num_attention_heads=shape.n_heads,
            rms_norm_eps=file.norm_eps,
            vocab_size=shape.n_vocab,
            head_dim=shape.head_dim,
            num_key_value_heads=shape.n_kv_heads,
        )
        self._block = llama.TransformerBlock(args)
        self._block.load_weights([(name, mx.array(file.tensor(ours)).astype(dtype)) for ours, name in _NAMES.items()])
        self._block.self_attn.rope = _rope(inner["layers"][0].self_attn.rope, pairs=shape.architecture == "llama")
        route_attention(self._block)
        join_projections([self._block])
        mx.eval(self._block.parameters())
        self._first = Stages(module, file.exit_layer) if file.exit_layer else None
        self._n_model_layers = shape.n_layers
        self.n_layers = file.exit_layer + 1

    def __call__(self, inputs: mx.array, layers: Sequence[RingLayer]) -> mx.array:
        """[T, hidden] states of inputs [T, hidden], or of token ids [T] for an exit draft."""
        hidden = inputs[None]
        if self._first is not None:
            skipped = [layers[0]] * (self._n_model_layers - len(layers) + 1)
            hidden = self._first.front(hidden, [*layers[:-1], *skipped])
        states: mx.array = self._block(hidden, None, layers[-1])[0]
        return states


_NAMES = {
    "attn_norm": "input_layernorm.weight",
    "attn_q": "self_attn.q_proj.weight",
    "attn_k": "self_attn.k_proj.weight",
    "attn_v": "self_attn.v_proj.weight",
    "attn_output": "self_attn.o_proj.weight",
    "ffn_norm": "post_attention_layernorm.weight",
    "ffn_gate": "mlp.gate_proj.weight",
    "ffn_up": "mlp.up_proj.weight",
    "ffn_down": "mlp.down_proj.weight",
}


def _rope(stock: Any, *, pairs: bool) -> Any:
    """The model's own frequencies. A draft file turns neighboring pairs for llama, also where the model's file has its
    rows in the order of halves."""
    rope = copy.copy(stock)
    if not hasattr(rope, "traditional"):
        raise ArtifactError(f"MLX runs no draft beside a model with {type(stock).__name__}", hint="leave --draft out")
    rope.traditional = pairs
    return rope


class _Layer:
    """See backends.taught.DraftLayer."""

    def __init__(self, stack: _Stack, rings: Rings, policy: WindowPolicy) -> None:
        self._stack, self._rings, self._policy = stack, rings, policy
        self.first = 0
        self.length = 0

    @property
    def room(self) -> int:
        return self._policy.room(self.length)

    def run(self, inputs: mx.array) -> tuple[mx.array, mx.array]:
        state = self._forward(inputs)[-1]
        return state, state

    def feed(self, inputs: mx.array) -> None:
        self._forward(inputs)
        self._rings.evaluate()  # the graph of a prompt's chunks must not grow until the first draft

    def rewind(self, length: int) -> None:
        self.length = length

    def start_at(self, position: int) -> None:
        self.first = self.length = position

    def close(self) -> None:
        """Does nothing: the arrays are freed with the object."""

    def _forward(self, inputs: mx.array) -> mx.array:
        self._rings.span.first = self.first
        self._rings.span.place(self.length, len(inputs))
        self.length += len(inputs)
        return self._stack(inputs, self._rings.layers)


class _Inputs:
    """See backends.taught.DraftInputs."""

    def __init__(self, file: DraftFile, embedding: Any, dtype: Any) -> None:
        self._embedding = embedding
        self._n_taps, self._hidden, self._eps = len(file.taps), file.shape.hidden, file.norm_eps
        self._token_norm, self._feature_norm, self._join, self._taps = (
            mx.array(file.tensor(name)).astype(dtype) for name in ("token_norm", "feature_norm", "join", "taps")
        )
        mx.eval(self._token_norm, self._feature_norm, self._join, self._taps)

    def known(self, tapped: mx.array) -> mx.array:
        states = mx.fast.rms_norm(tapped.reshape(-1, self._n_taps, self._hidden), None, TAP_EPS)
        return states.reshape(tapped.shape) @ self._taps.T

    def rows(self, tokens: Sequence[TokenLike], known: mx.array) -> mx.array:
        token = mx.fast.rms_norm(self._embedding(as_array(tokens)[0]), self._token_norm, self._eps)
        feature = mx.fast.rms_norm(known, self._feature_norm, self._eps)
        return mx.concatenate([token, feature], axis=1) @ self._join.T


class _Table:
    """See backends.taught.StateTable."""

    def __init__(self, width: int, dtype: Any) -> None:
        self._rows = mx.zeros((TAPPED_ROWS, width), dtype)

    def write(self, at: npt.NDArray[np.int64], tapped: mx.array) -> None:
        self._rows[mx.array(at)] = tapped
        # Or the graph would grow in rounds without drafts.
        mx.async_eval(self._rows)  # type: ignore[no-untyped-call]

    def read(self, at: npt.NDArray[np.int64], held: npt.NDArray[np.bool_]) -> mx.array:
        found = self._rows[mx.array(at)]
        return found if held.all() else mx.where(mx.array(held)[:, None], found, mx.zeros((), found.dtype))

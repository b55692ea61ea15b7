"""The forward of a Llama-like model in NumPy float32: small, slow and exact.

Exact means batch-invariant: a row's logits depend on its token and on the keys that it sees, bit for bit, and not on
the rows computed beside it. BLAS rounds differently for other shapes, so a matrix always meets the same number of rows
(padded), and attention goes row by row over a number of slots that follows from the row's position alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgeinfer.backends.engine_errors import maps_engine_errors
from edgeinfer.backends.reference.cache import LayerKv, ReferenceCache
from edgeinfer.backends.reference.weights import Floats, LayerWeights, Shape, Weights
from edgeinfer.backends.rounds import run_in_turn
from edgeinfer.errors import EngineError, UsageError
from edgeinfer.protocols import Ask, Row, Tokenizer
from edgeinfer.types import KvType
from edgeinfer.window import WindowPolicy

BLOCK_ROWS = 8  # rows of every product; more would make a single row dearer
_SLOT_STEP = 64  # attention reads the slots in use rounded up to this


@maps_engine_errors("reference")
class ReferenceModel:
    """See protocols.Model."""

    exact_rows = sys.maxsize
    n_threads = 0
    note = ""
    n_caches = sys.maxsize  # a cache allocates its own rings

    def __init__(
        self, shape: Shape, weights: Weights, tokenizer: Tokenizer, *, kv_type: KvType = "f32", exit_layer: int | None
    ) -> None:
        self.shape = shape
        self.tokenizer = tokenizer
        self.kv_type = kv_type
        self.exit_layer = exit_layer
        self._weights: Weights | None = weights
        self._block_rows = BLOCK_ROWS if _place_is_free(weights) else 1

    def new_cache(self, policy: WindowPolicy) -> ReferenceCache:
        return ReferenceCache(self, policy)

    def close(self) -> None:
        self._weights = None

    @property
    def weights(self) -> Weights:
        if self._weights is None:
            raise EngineError("the model is closed")
        return self._weights

    def embed(self, tokens: Sequence[int]) -> Floats:
        """[T, hidden]. Raises UsageError for an id outside the vocabulary."""
        for token in tokens:
            if not 0 <= token < self.shape.n_vocab:
                raise UsageError(f"token {token} is outside the vocabulary of {self.shape.n_vocab}")
        return self.weights.embedding[list(tokens)]

    def run(self, asks: Sequence[Ask]) -> Sequence[Sequence[Row]]:
        return run_in_turn(asks)

    def forward(self, states: Floats, start: int, layers: range, kv: Sequence[LayerKv], policy: WindowPolicy) -> Floats:
        """`states` [T, hidden] of positions `start` and on, through `layers`; their K and V go into `kv`."""
        blocks = [
            self._run_block(states[at : at + self._block_rows], start + at, layers, kv, policy)
            for at in range(0, len(states), self._block_rows)
        ]
        return np.concatenate(blocks) if blocks else states

    def head(self, states: Floats) -> Floats:
        """Logits [T, V] of `states` [T, hidden]."""
        weights, rows = self.weights, self._block_rows
        blocks = [_padded(states[at : at + rows], rows) for at in range(0, len(states), rows)]
        logits = [_norm(block, weights.output_norm, self.shape.norm_eps) @ weights.output.T for block in blocks]
        return np.concatenate(logits)[: len(states)]

    def _run_block(
        self, states: Floats, start: int, layers: range, kv: Sequence[LayerKv], policy: WindowPolicy
    ) -> Floats:
        n_rows = len(states)
        states = _padded(states, self._block_rows)
        turn = self._turn(start)
        views = [_View(policy, start + row) for row in range(n_rows)]
        for layer in layers:
            weights = self.weights.layers[layer]
            states = states + self._attention(states, weights, turn, kv[layer], views)
            states = states + self._feed_forward(states, weights)
        return states[:n_rows]

    def _attention(
        self, states: Floats, weights: LayerWeights, turn: Floats, kv: LayerKv, views: Sequence[_View]
    ) -> Floats:
        shape = self.shape
        heads, kv_heads, dim = shape.n_heads, shape.n_kv_heads, shape.head_dim
        normed = _norm(states, weights.attn_norm, shape.norm_eps)
        qkv = (normed @ weights.qkv.T).reshape(len(states), heads + 2 * kv_heads, dim)
        qk, v = qkv[:, : heads + kv_heads], qkv[:, heads + kv_heads :]
        if weights.q_norm is not None and weights.k_norm is not None:
            normed_q = _norm(qk[:, :heads], weights.q_norm, shape.norm_eps)
            qk = np.concatenate([normed_q, _norm(qk[:, heads:], weights.k_norm, shape.norm_eps)], axis=1)
        qk = self._rotated(qk, turn)
        q = qk[:, :heads] * np.float32(dim**-0.5)
        kv.write([view.slot for view in views], qk[: len(views), heads:], v[: len(views)])
        keys, values = kv.read(max(view.n_slots for view in views))
        out = np.zeros((len(states), heads * dim), np.float32)
        for row, view in enumerate(views):
            query = q[row].reshape(kv_heads, heads // kv_heads, dim)
            scores = query @ keys[:, : view.n_slots].transpose(0, 2, 1) + view.bias
            out[row] = (_softmax(scores) @ values[:, : view.n_slots]).reshape(-1)
        return out @ weights.attn_output.T

    def _feed_forward(self, states: Floats, weights: LayerWeights) -> Floats:
        gate_up = _norm(states, weights.ffn_norm, self.shape.norm_eps) @ weights.gate_up.T
        gate, up = gate_up[:, : self.shape.n_ffn], gate_up[:, self.shape.n_ffn :]
        with np.errstate(over="ignore"):  # exp overflows to inf where the gate is closed
            inner: Floats = gate / (1 + np.exp(-gate)) * up
        return inner @ weights.ffn_down.T

    def _turn(self, start: int) -> npt.NDArray[np.float32]:
        """Cosine and sine of RoPE (arXiv 2104.09864) for a block of positions: [2, block rows, 1, head_dim / 2]."""
        positions = np.arange(start, start + self._block_rows)
        angles = positions[:, None, None] * self.weights.frequencies
        return np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)

    def _rotated(self, x: Floats, turn: Floats) -> Floats:
        """x: [T, H, head_dim]."""
        cos, sin = turn
        half = self.shape.head_dim // 2
        pairs = x.reshape(*x.shape[:2], half, 2) if self.shape.interleaved else x.reshape(*x.shape[:2], 2, half)
        pairs = pairs if self.shape.interleaved else pairs.swapaxes(-1, -2)
        a, b = pairs[..., 0], pairs[..., 1]
        turned = np.stack([a * cos - b * sin, a * sin + b * cos], axis=-1 if self.shape.interleaved else -2)
        return turned.reshape(x.shape)


class _View:
    """What the query at `position` sees, as a function of the position alone."""

    def __init__(self, policy: WindowPolicy, position: int) -> None:
        self.slot = policy.slot(position)
        used = policy.slots if position >= policy.window else policy.slot(position) + 1
        self.n_slots = min(policy.slots, -(-used // _SLOT_STEP) * _SLOT_STEP)
        slots = np.arange(self.n_slots)
        # the newest position <= `position` that lives in each recent slot; older ones there are overwritten
        newest = position - (position - (slots - policy.sink)) % policy.window
        recent = (slots >= policy.sink) & (newest >= max(policy.sink, policy.oldest(position)))
        sinks = (slots < policy.sink) & (slots <= position)
        self.bias = np.where(recent | sinks, np.float32(0), np.float32(-np.inf))


def _norm(x: Floats, weight: Floats, eps: float) -> Floats:
    """RMSNorm (arXiv 1910.07467) over the last dimension."""
    scale: Floats = np.sqrt((x * x).sum(axis=-1, keepdims=True) / np.float32(x.shape[-1]) + np.float32(eps))
    return x / scale * weight


def _softmax(scores: Floats) -> Floats:
    weights: Floats = np.exp(scores - scores.max(axis=-1, keepdims=True))
    total: Floats = weights.sum(axis=-1, keepdims=True)
    return weights / total


def _padded(states: Floats, n_rows: int) -> Floats:
    if len(states) == n_rows:
        return states
    return np.concatenate([states, np.zeros((n_rows - len(states), states.shape[1]), np.float32)])


def _place_is_free(weights: Weights) -> bool:
    """Whether this BLAS gives a row the same bits at any place in a block, whatever is beside it."""
    layer = weights.layers[0]
    matrices = (layer.qkv, layer.attn_output, layer.gate_up, layer.ffn_down, weights.output)
    return all(_is_place_free(matrix) for matrix in matrices)


def _is_place_free(matrix: Floats) -> bool:
    rows = np.random.default_rng(0).standard_normal((BLOCK_ROWS, matrix.shape[1]), np.float32)
    expected = rows @ matrix.T
    alone = [_padded(rows[at : at + 1], BLOCK_ROWS) @ matrix.T for at in range(BLOCK_ROWS)]
    return np.array_equal(rows[::-1] @ matrix.T, expected[::-1]) and all(
        np.array_equal(product[0], expected[at]) for at, product in enumerate(alone)
    )

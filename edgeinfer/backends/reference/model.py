"""The forward of a Llama-like model in NumPy float32: small, slow and exact.

Exact means batch-invariant: a row's logits depend on its token and on the keys that it sees, bit for bit, and not on
the rows computed beside it. BLAS rounds differently for other shapes, so a matrix always meets the same number of rows
(padded), and attention goes row by row over a number of slots that follows from the row's position alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeinfer.backends.engine_errors import maps_engine_errors
from edgeinfer.backends.reference.cache import PackedRows, ReferenceCache, ReferenceRound
from edgeinfer.backends.reference.storage import LayerRings, Rings
from edgeinfer.backends.reference.weights import Floats, LayerWeights, Weights, WeightsShape
from edgeinfer.backends.reserve import PlannedCaches, Reserve
from edgeinfer.backends.rounds import HeldRow, check_tokens
from edgeinfer.errors import EngineError
from edgeinfer.protocols import Ask, Row, Tokenizer, TokenLike, as_id
from edgeinfer.types import DraftsWith, KvType
from edgeinfer.window import WindowPolicy

if TYPE_CHECKING:
    from edgeinfer.backends.reference.taught import TaughtLayer

BLOCK_ROWS = 8  # rows of every product; more would make a single row slower
_SLOT_STEP = 64  # attention reads the slots in use rounded up to this


@maps_engine_errors("reference")
class ReferenceModel:
    """See protocols.Model."""

    exact_rows = sys.maxsize
    n_threads = 0
    note = ""

    def __init__(
        self,
        shape: WeightsShape,
        weights: Weights,
        tokenizer: Tokenizer,
        *,
        kv_type: KvType = "f32",
        exit_layer: int | None = None,
        taught: TaughtLayer | None = None,
        planned: PlannedCaches | None = None,
    ) -> None:
        self.shape = shape
        self.tokenizer = tokenizer
        self.kv_type = kv_type
        self.exit_layer = None if taught else exit_layer
        self.taught = taught
        self._weights: Weights | None = weights
        self.n_caches = planned.n if planned is not None else 1
        self._reserved = Reserve(planned, self._new_rings)
        self._block_rows = BLOCK_ROWS if _place_is_free(weights) else 1

    @property
    def drafts_with(self) -> DraftsWith:
        return self.taught.kind if self.taught else "early-exit" if self.exit_layer else ""

    def new_cache(self, policy: WindowPolicy) -> ReferenceCache:
        drafts = self.taught.on(policy) if self.taught else None
        return ReferenceCache(self, policy, self._reserved.take(policy), self._reserved.give_back, drafts)

    def _new_rings(self, policy: WindowPolicy) -> Rings:
        return [LayerRings(self.shape, policy.slots, self.kv_type) for _ in range(self.shape.n_layers)]

    def close(self) -> None:
        self._weights = None

    @property
    def weights(self) -> Weights:
        if self._weights is None:
            raise EngineError("the model is closed")
        return self._weights

    def embed(self, tokens: Sequence[TokenLike]) -> Floats:
        """[T, hidden]."""
        return self.weights.embedding[[as_id(token) for token in tokens]]

    def run(self, asks: Sequence[Ask]) -> Sequence[Sequence[Row]]:
        """One forward for all asks: their rows are packed, and each row attends to the rings of its own cache."""
        check_tokens(asks, self.shape.n_vocab)
        asked = [[as_id(token) for token in ask.tokens] for ask in asks]
        rounds = [ask.round for ask in asks if isinstance(ask.round, ReferenceRound)]
        for step, ids, ask in zip(rounds, asked, asks, strict=True):
            step.ask(len(ids), ask.n_rows)
        exit_layer = self.exit_layer or 0
        early = self.forward([step.early(ids) for step, ids in zip(rounds, asked, strict=True)], range(exit_layer))
        late = [step.late(states) for step, states in zip(rounds, early, strict=True)]
        states = self._run_late(late, rounds)
        wanted = [found[len(found) - ask.n_rows :] for found, ask in zip(states, asks, strict=True)]
        logits = self.head(np.concatenate(wanted))
        for step, ids in zip(rounds, asked, strict=True):
            step.has_run(len(ids))
        return [[HeldRow(row) for row in rows] for rows in _split(logits, [ask.n_rows for ask in asks])]

    def rest(self) -> None:
        pass

    def _run_late(self, packed: Sequence[PackedRows], rounds: Sequence[ReferenceRound]) -> list[Floats]:
        """The late layers. At each layer that a draft taps, the rounds are shown the states."""
        taps = self.taught.taps if self.taught else ()
        states = [rows.states for rows in packed]
        for start, stop in pairwise(sorted({self.exit_layer or 0, *taps, self.shape.n_layers})):
            states = self.forward(
                [replace(rows, states=found) for rows, found in zip(packed, states, strict=True)], range(start, stop)
            )
            if stop in taps:
                for step, found in zip(rounds, states, strict=True):
                    step.tap(found)
        return states

    def forward(self, packed: Sequence[PackedRows], layers: range) -> list[Floats]:
        """The states of each conversation's rows after `layers`; their K and V go into its rings."""
        states = np.concatenate([rows.states for rows in packed])
        queries = [_Query(rows, rows.start + row) for rows in packed for row in range(len(rows.states))]
        size = self._block_rows
        for at in range(0, len(states) if layers else 0, size):
            states[at : at + size] = self._run_block(states[at : at + size], queries[at : at + size], layers)
        return _split(states, [len(rows.states) for rows in packed])

    def head(self, states: Floats) -> Floats:
        """Logits [T, V] of `states` [T, hidden]."""
        weights, size = self.weights, self._block_rows
        logits = np.zeros((len(states), self.shape.n_vocab), np.float32)
        for at in range(0, len(states), size):
            block = _norm(_padded(states[at : at + size], size), weights.output_norm, self.shape.norm_eps)
            logits[at : at + size] = (block @ weights.output.T)[: len(states) - at]
        return logits

    def _run_block(self, states: Floats, queries: Sequence[_Query], layers: range) -> Floats:
        states = _padded(states, self._block_rows)
        turn = self._turn([query.position for query in queries])
        for layer in layers:
            weights = self.weights.layers[layer]
            states = states + self._attention(states, weights, turn, layer, queries)
            states = states + self._feed_forward(states, weights)
        return states[: len(queries)]

    def _attention(
        self, states: Floats, weights: LayerWeights, turn: Floats, layer: int, queries: Sequence[_Query]
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
        out = np.zeros((len(states), heads * dim), np.float32)
        for start, stop in _conversations(queries):
            own, kv = queries[start:stop], queries[start].kv[layer]
            kv.write([query.slot for query in own], qk[start:stop, heads:], v[start:stop])
            keys, values = kv.read(max(query.n_slots for query in own))
            for row, query in enumerate(own, start):
                grouped = q[row].reshape(kv_heads, heads // kv_heads, dim)
                scores = grouped @ keys[:, : query.n_slots].transpose(0, 2, 1) + query.bias
                out[row] = (_softmax(scores) @ values[:, : query.n_slots]).reshape(-1)
        return out @ weights.attn_output.T

    def _feed_forward(self, states: Floats, weights: LayerWeights) -> Floats:
        gate_up = _norm(states, weights.ffn_norm, self.shape.norm_eps) @ weights.gate_up.T
        gate, up = gate_up[:, : self.shape.n_ffn], gate_up[:, self.shape.n_ffn :]
        with np.errstate(over="ignore"):  # exp overflows to inf where the gate is closed
            inner: Floats = gate / (1 + np.exp(-gate)) * up
        return inner @ weights.ffn_down.T

    def _turn(self, positions: Sequence[int]) -> npt.NDArray[np.float32]:
        """Cosine and sine of RoPE (arXiv 2104.09864) for a block of positions: [2, block rows, 1, head_dim / 2]."""
        padded = np.zeros(self._block_rows)
        padded[: len(positions)] = positions
        angles = padded[:, None, None] * self.weights.frequencies
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


class _Query:
    """One row of a forward. The slots that it sees follow from its position alone."""

    def __init__(self, rows: PackedRows, position: int) -> None:
        policy = rows.policy
        self.kv = rows.kv
        self.position = position
        self.slot = policy.slot(position)
        used = policy.slots if position >= policy.window else policy.slot(position) + 1
        self.n_slots = min(policy.slots, -(-used // _SLOT_STEP) * _SLOT_STEP)
        slots = np.arange(self.n_slots)
        # the newest position <= `position` that lives in each recent slot; older ones there are overwritten
        newest = position - (position - (slots - policy.sink)) % policy.window
        recent = (slots >= policy.sink) & (newest >= max(policy.sink, policy.oldest(position), rows.first))
        sinks = (slots < policy.sink) & (slots <= position) & (slots >= rows.first)
        self.bias = np.where(recent | sinks, np.float32(0), np.float32(-np.inf))


def _conversations(queries: Sequence[_Query]) -> Iterator[tuple[int, int]]:
    """[start, stop) of each conversation's rows."""
    start = 0
    for stop in range(1, len(queries) + 1):
        if stop == len(queries) or queries[stop].kv is not queries[start].kv:
            yield start, stop
            start = stop


def _split(states: Floats, sizes: Sequence[int]) -> list[Floats]:
    return np.split(states, np.cumsum(sizes)[:-1])


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
    """Whether this BLAS gives a row the same bits at any place in a block, whatever the other rows are."""
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

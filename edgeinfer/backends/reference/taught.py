"""A taught draft in NumPy: its layer is a model of one layer, or for an exit draft of the model's first layers and it.

Its head gives only the ranked tokens.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.backends.reference.cache import PackedRows
from edgeinfer.backends.reference.model import ReferenceModel
from edgeinfer.backends.reference.storage import LayerRings
from edgeinfer.backends.reference.weights import LayerWeights, Weights, WeightsShape
from edgeinfer.backends.taught import ExitDrafts, FeatureDrafts, FeatureInputs, RankedRow, TapTable, TaughtDrafts
from edgeinfer.formats.draft_file import DraftFile
from edgeinfer.protocols import Tokenizer
from edgeinfer.types import KvType
from edgeinfer.window import WindowPolicy

if TYPE_CHECKING:
    from edgeinfer.backends.reference.weights import Floats
    from edgeinfer.types import Logits

__all__ = ["TaughtLayer"]


class TaughtLayer:
    """The weights of a draft, shared by the conversations of its model."""

    def __init__(
        self, file: DraftFile, shape: WeightsShape, weights: Weights, tokenizer: Tokenizer, kv_type: KvType
    ) -> None:
        self.kind = file.kind
        self.taps = file.taps
        self._ranked = file.ranked_tokens
        layer = LayerWeights(
            attn_norm=file.tensor("attn_norm"),
            qkv=np.concatenate([file.tensor(f"attn_{part}") for part in "qkv"]),
            q_norm=None,
            k_norm=None,
            attn_output=file.tensor("attn_output"),
            ffn_norm=file.tensor("ffn_norm"),
            gate_up=np.concatenate([file.tensor("ffn_gate"), file.tensor("ffn_up")]),
            ffn_down=file.tensor("ffn_down"),
        )
        self._n_vocab = shape.n_vocab
        head = weights.output[self._ranked]
        layers = (*weights.layers[: file.exit_layer], layer)
        own = Weights(weights.embedding, layers, file.tensor("output_norm"), head, weights.frequencies)
        shape = replace(shape, n_layers=len(layers), n_vocab=len(self._ranked), norm_eps=file.norm_eps)
        self._layer = ReferenceModel(shape, own, tokenizer, kv_type=kv_type)
        self._inputs = FeatureInputs(file, self._layer.embed) if file.kind == "feature" else None

    def on(self, policy: WindowPolicy) -> TaughtDrafts[Floats]:
        """The drafts of a new conversation."""
        layer = _Layer(self._layer, policy)
        if self._inputs is None:
            return ExitDrafts(layer, self._layer.embed, self._row)
        table = TapTable(self._inputs.n_taps * self._inputs.hidden)
        return FeatureDrafts(self._inputs, layer, table, self._row)

    def _row(self, logits: Logits) -> RankedRow:
        return RankedRow(logits, self._ranked, self._n_vocab)


class _Layer:
    """See backends.taught.DraftLayer."""

    def __init__(self, model: ReferenceModel, policy: WindowPolicy) -> None:
        self._model = model
        self._policy = policy
        self._kv = [LayerRings(model.shape, policy.slots, model.kv_type) for _ in range(model.shape.n_layers)]
        self.first = 0
        self.length = 0

    @property
    def room(self) -> int:
        return self._policy.room(self.length)

    def run(self, inputs: Floats) -> tuple[Logits, Floats]:
        state = self._forward(inputs)[-1:]
        return self._model.head(state)[0], state[0]

    def feed(self, inputs: Floats) -> None:
        self._forward(inputs)

    def rewind(self, length: int) -> None:
        self.length = length

    def start_at(self, position: int) -> None:
        self.first = self.length = position

    def close(self) -> None:
        """Does nothing: the arrays are freed with the object."""

    def _forward(self, inputs: Floats) -> Floats:
        rows = PackedRows(inputs, self.length, self._kv, self._policy, self.first)
        [states] = self._model.forward([rows], range(self._model.shape.n_layers))
        self.length += len(inputs)
        return states

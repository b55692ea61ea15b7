"""A taught draft in the exporter: its weights as a source, and the methods that it adds to a program.

`formats/draft_file.py` has the formulas. The draft's matrices have 8 bits where the model's have four: they are small,
and a draft that is wrong more often costs more. Its head is rows of the model's own, as they are quantized.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeinfer.backends.executorch.export import operators
from edgeinfer.backends.executorch.export.decoder import Decoder, Layer, Linear, Method, Norm
from edgeinfer.backends.executorch.export.gguf_source import in_halves
from edgeinfer.backends.executorch.export.q4_0 import Floats, Q4Weight
from edgeinfer.backends.executorch.export.quantize import Tier, rows_of
from edgeinfer.backends.executorch.export.source import Source
from edgeinfer.formats.draft_file import TAP_EPS, DraftFile

_LAYER = "blk.0."


class DraftSource:
    """See source.Source. The tensors of a draft file by their own names, and its layer as `blk.0`."""

    def __init__(self, file: DraftFile, model: Source) -> None:
        self.path = file.path
        self.shape = replace(model.shape, norm_eps=file.norm_eps)
        self.frequencies = model.frequencies
        self._file = file

    def has(self, name: str) -> bool:
        return f"{name.removeprefix(_LAYER)}.weight" in self._file.header.tensors

    def floats(self, name: str) -> Floats:
        part = name.removeprefix(_LAYER)
        values = self._file.tensor(part)
        if self.shape.architecture != "llama" or part not in ("attn_q", "attn_k"):
            return values
        return in_halves(values, self.shape.n_heads if part == "attn_q" else self.shape.n_kv_heads)

    def q4_0(self, name: str) -> Q4Weight | None:
        del name
        return None


class TapNorm(nn.Module):
    """RMSNorm without a weight, of each tap."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, hidden), 1.0 / hidden), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(F.linear(x * x, self.mean) + TAP_EPS)


class Draft(nn.Module):
    """All of a draft's weights. The methods below share them."""

    def __init__(self, file: DraftFile, model: Source, decoder: Decoder, tier: Tier) -> None:
        super().__init__()
        source = DraftSource(file, model)
        own_tier: Tier = "8da8w" if tier == "8da4w" else tier
        self.decoder = decoder
        self.layer = Layer(source, 0, own_tier)
        self.output_norm = Norm(source, "output_norm")
        self.head = nn.Parameter(rows_of(decoder.head.weight, file.ranked_tokens), requires_grad=False)
        if file.kind == "feature":
            self.n_taps, self.hidden = len(file.taps), file.shape.hidden
            self.tap_norm = TapNorm(self.hidden)
            self.taps, self.join = Linear(source, "taps", own_tier), Linear(source, "join", own_tier)
            self.token_norm, self.feature_norm = Norm(source, "token_norm"), Norm(source, "feature_norm")


class DraftMethod(nn.Module):
    def __init__(self, draft: Draft) -> None:
        super().__init__()
        self.draft = draft


class DraftKnown(DraftMethod):
    """tapped [1, T, taps x hidden] -> what is known of these positions [1, T, hidden]"""

    def forward(self, tapped: Tensor) -> Tensor:
        draft = self.draft
        states = tapped.view(1, -1, draft.n_taps, draft.hidden)
        return draft.taps(draft.tap_norm(states).view(1, -1, draft.n_taps * draft.hidden))


class DraftInput(DraftMethod):
    """tokens [1, T], known [1, T, hidden] of the positions before them -> inputs of the layer [1, T, hidden]"""

    def forward(self, tokens: Tensor, known: Tensor) -> Tensor:
        draft = self.draft
        token = draft.token_norm(draft.decoder.embed(tokens))
        return draft.join(torch.cat([token, draft.feature_norm(known)], -1))


class DraftLayer(DraftMethod):
    """inputs [1, T, hidden], place [4], rows [R] -> logits [R, ranked tokens], states [1, R, hidden]"""

    def forward(self, inputs: Tensor, place: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        draft = self.draft
        rotation = operators.rotation(inputs, place, draft.decoder.frequencies)
        states = draft.layer(inputs, rotation, place).index_select(1, rows)
        return F.linear(draft.output_norm(states), draft.head)[0], states


class TappedForward(Method):
    """tokens [1, T], place [4], rows [R] -> logits [R, V], tapped states [1, T, taps x hidden]"""

    def __init__(self, decoder: Decoder, taps: tuple[int, ...]) -> None:
        super().__init__(decoder)
        self.taps = taps

    def forward(self, tokens: Tensor, place: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        decoder, tapped = self.decoder, []
        states = decoder.embed(tokens)
        rotation = operators.rotation(states, place, decoder.frequencies)
        for n_run, layer in enumerate(decoder.layers, start=1):
            states = layer(states, rotation, place)
            if n_run in self.taps:
                tapped.append(states)
        return decoder.logits(states.index_select(1, rows)), torch.cat(tapped, -1)

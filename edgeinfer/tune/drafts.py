"""The two kinds of drafts that can be taught, as torch modules. Both are one Llama layer over an input.

* `exit`: the input is the model's own state after layer E; one more layer, then norm and the model's head.
* `feature`: the input joins the embedding of the newest token with what the whole model knew one position before
  (three tapped states); deeper drafts take the draft's own state in place of the model's (EAGLE-3, arXiv 2503.01840).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from edgeinfer.tune.torch_model import TorchModel, attend, feed_forward

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["N_DEPTHS", "Draft", "ExitDraft", "FeatureDraft", "Kind", "default_taps", "new_draft"]

Kind: TypeAlias = Literal["exit", "feature"]
N_DEPTHS: Final = 3  # drafts in a row that a feature draft is taught; four agreed no more often
TAP_EPS: Final = 2.0**-7  # tapped states are normalized without a weight; the draft file's format fixes this value


class Draft(Protocol):
    """What teaching and judging need of a draft."""

    kind: Kind
    kept: frozenset[int]  # numbers of layers after which it needs the model's state
    n_depths: int  # drafts in a row that one forward simulates

    def rows(self, states: Mapping[int, Tensor], tokens: Tensor) -> list[Tensor]:
        """Normed states for the head, one [B, T, hidden] a depth; row t predicts token t + 1."""
        ...

    def module(self) -> nn.Module: ...
    def tensors(self) -> dict[str, Tensor]:
        """The draft file's tensors by name, without the ranked vocabulary."""
        ...


class _Norm(nn.Module):
    def __init__(self, model: TorchModel, start: Tensor | None = None) -> None:
        super().__init__()
        n = model.shape.hidden
        self.weight = nn.Parameter(torch.ones(n, device=model.device) if start is None else start.float().clone())
        self._eps = model.shape.norm_eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self._eps)


class _Layer(nn.Module):
    """One Llama layer. It starts as the identity: both output matrices are zero."""

    def __init__(self, model: TorchModel) -> None:
        super().__init__()
        shape, self._model = model.shape, model
        inner = shape.n_heads * shape.head_dim

        def matrix(n_in: int, n_out: int) -> nn.Linear:
            return nn.Linear(n_in, n_out, bias=False, device=model.device)

        self.attn_norm, self.ffn_norm = _Norm(model), _Norm(model)
        self.attn_q = matrix(shape.hidden, inner)
        self.attn_k = matrix(shape.hidden, shape.n_kv_heads * shape.head_dim)
        self.attn_v = matrix(shape.hidden, shape.n_kv_heads * shape.head_dim)
        self.attn_output = matrix(inner, shape.hidden)
        self.ffn_gate, self.ffn_up = matrix(shape.hidden, shape.n_ffn), matrix(shape.hidden, shape.n_ffn)
        self.ffn_down = matrix(shape.n_ffn, shape.hidden)
        nn.init.zeros_(self.attn_output.weight)
        nn.init.zeros_(self.ffn_down.weight)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, KV heads, T, head_dim] of inputs at positions 0, 1, ..."""
        model, normed = self._model, self.attn_norm(x)
        k = model.heads(self.attn_k(normed), model.shape.n_kv_heads)
        v = model.heads(self.attn_v(normed), model.shape.n_kv_heads)
        return model.rotated(k, model.turn(0, x.shape[1])), v

    def forward(self, x: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """`mask` [T, S] over the keys; None: causal."""
        model = self._model
        q = model.rotated(model.heads(self.attn_q(self.attn_norm(x)), model.shape.n_heads), model.turn(0, x.shape[1]))
        seen = attend(q, k, v.to(q.dtype), causal=mask is None, mask=mask)
        x = x + self.attn_output(seen.transpose(1, 2).flatten(2))
        gate_up = torch.cat((self.ffn_gate.weight, self.ffn_up.weight)).to(x.dtype)
        return x + feed_forward(self.ffn_norm(x), gate_up, self.ffn_down.weight.to(x.dtype))


class ExitDraft(nn.Module):
    """See Draft. One more layer after the model's first `exit_layer` layers."""

    kind: Kind = "exit"
    n_depths = 1  # deeper drafts repeat the same step on the model's own early layers

    def __init__(self, model: TorchModel, exit_layer: int) -> None:
        super().__init__()
        self.exit_layer = exit_layer
        self.kept = frozenset({exit_layer})
        self.layer, self.output_norm = _Layer(model), _Norm(model, model.output_norm)

    def rows(self, states: Mapping[int, Tensor], tokens: Tensor) -> list[Tensor]:
        del tokens
        x = states[self.exit_layer]
        return [self.output_norm(self.layer(x, *self.layer.keys_values(x), None))]

    def module(self) -> nn.Module:
        return self

    def tensors(self) -> dict[str, Tensor]:
        return _named(self.layer, output_norm=self.output_norm)


class FeatureDraft(nn.Module):
    """See Draft. One layer over the token and what the model knew one position before."""

    kind: Kind = "feature"

    def __init__(self, model: TorchModel, taps: Sequence[int], *, n_depths: int = N_DEPTHS) -> None:
        super().__init__()
        hidden = model.shape.hidden
        self.taps = tuple(taps)
        self.kept = frozenset(taps)
        self.n_depths = n_depths
        self._embedding = model.embedding
        self.taps_matrix = nn.Linear(len(taps) * hidden, hidden, bias=False, device=model.device)
        self.join = nn.Linear(2 * hidden, hidden, bias=False, device=model.device)
        self.token_norm, self.feature_norm = _Norm(model), _Norm(model)
        self.layer, self.output_norm = _Layer(model), _Norm(model, model.output_norm)

    def rows(self, states: Mapping[int, Tensor], tokens: Tensor) -> list[Tensor]:
        """At depth d, row t stands for a draft whose newest d tokens were drafts: it sees the model's features up to
        position t - d, and the draft's own after it. Position 0 has no feature and is never seen."""
        token_part = self.token_norm(self._embedding[tokens])
        tapped = torch.cat([F.rms_norm(states[n], (states[n].shape[-1],), eps=TAP_EPS) for n in self.taps], -1)
        feature = self.taps_matrix(tapped)
        keys: list[Tensor] = []
        values: list[Tensor] = []
        rows = []
        for depth in range(self.n_depths):
            before = F.pad(feature, (0, 0, 1, 0))[:, :-1]
            x = self.join(torch.cat((token_part, self.feature_norm(before)), -1))
            k, v = self.layer.keys_values(x)
            keys.append(k)
            values.append(v)
            mask = _sight(tokens.shape[1], depth, tokens.device)
            feature = self.layer(x, torch.cat(keys, 2), torch.cat(values, 2), mask)
            rows.append(self.output_norm(feature))
        return rows

    def module(self) -> nn.Module:
        return self

    def tensors(self) -> dict[str, Tensor]:
        return _named(
            self.layer,
            output_norm=self.output_norm,
            token_norm=self.token_norm,
            feature_norm=self.feature_norm,
            join=self.join,
            taps=self.taps_matrix,
        )


def new_draft(model: TorchModel, kind: Kind, *, exit_layer: int, seed: int) -> Draft:
    """A draft that was taught nothing. The same seed gives the same one."""
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        return (
            ExitDraft(model, exit_layer) if kind == "exit" else FeatureDraft(model, default_taps(model.shape.n_layers))
        )


def default_taps(n_layers: int) -> tuple[int, ...]:
    """An early, a middle and the last state; 8, 16, 30 of 30 layers in the measured drafts."""
    return tuple(sorted({max(1, round(n_layers * 0.27)), max(1, round(n_layers * 0.53)), n_layers}))


def _sight(n: int, depth: int, device: torch.device) -> Tensor:
    """[n, (depth + 1) * n]: which keys of depths 0 to `depth` the rows of `depth` see."""
    i, j = torch.arange(n, device=device)[:, None], torch.arange(n, device=device)[None]
    of_the_model = (j <= i - depth) & (j > 0)
    own = [j == i - (depth - at) for at in range(1, depth + 1)]
    if depth == 0:
        of_the_model = of_the_model | (j == i)  # row 0 must see something; it is never judged
    return torch.cat([of_the_model, *own], 1)


def _named(layer: nn.Module, **others: nn.Module) -> dict[str, Tensor]:
    found = {f"{name}.weight": getattr(layer, name).weight for name in _LAYER_PARTS}
    found |= {f"{name}.weight": module.get_parameter("weight") for name, module in others.items()}
    return {name: tensor.detach() for name, tensor in found.items()}


_LAYER_PARTS: Final = (
    "attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down",
)  # fmt: skip

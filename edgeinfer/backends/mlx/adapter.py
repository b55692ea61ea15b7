"""Early exit over stock mlx-lm models, by their own forward code.

The inner module (the one that owns `embed_tokens`, `layers` and `norm`) is copied shallowly into a front, whose layers
past the exit are stubs, and a back, whose layers before the exit are stubs. The stock `__call__` still computes
embeddings, scales, masks and per-layer inputs with its own code and its own layer numbers. MLX is lazy, so what a stub
discards is never computed. The head is the stock outer `__call__` over an inner that returns norm(hidden): a tied
head, a soft cap or a logit scale come with it. (mlx-lm 0.32.2; arXiv 2404.16710 for the idea of the exit.)
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from edgeinfer.errors import EngineError

INNER_NAMES = ("model", "language_model", "transformer", "backbone")
NORM_NAMES = ("norm", "embedding_norm")


def find_inner(model: Any) -> tuple[Any, str, Any]:
    """(owner, attribute, inner): where the module with layers and a norm sits. Raises EngineError if none does."""
    waiting = [model]
    while waiting:
        owner = waiting.pop(0)
        for name in INNER_NAMES:
            if name in owner:
                inner = owner[name]
                if "layers" in inner and any(norm in inner for norm in NORM_NAMES):
                    return owner, name, inner
                waiting.append(inner)
    raise EngineError("this mlx-lm model has no inner module with layers and a norm")


def own_windows(model: Any) -> list[int]:
    """The model's own sliding window of each layer that keeps K/V; 0 for full attention.

    Raises EngineError for a recurrent state: it cannot forget rows, so no window and no rollback is possible.
    """
    from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache

    windows = []
    for stock in make_prompt_cache(model):
        if type(stock) is KVCache:
            windows.append(0)
        elif type(stock) is RotatingKVCache:
            windows.append(int(stock.max_size))
        else:
            raise EngineError(
                f"this model keeps a {type(stock).__name__}, a state that cannot forget rows",
                hint="choose a model whose layers all use attention, or the gguf backend",
            )
    return windows


def refusal(model: Any, exit_layer: int) -> str:
    """Why this model cannot draft with layers [0, exit_layer); "" when it can."""
    inner = find_inner(model)[2]
    n_layers = len(inner["layers"])
    if not 0 < exit_layer < n_layers:
        return f"exit layer {exit_layer} is not inside the {n_layers} layers"
    donors = getattr(inner, "previous_kvs", None)
    if donors is not None and any(donor < exit_layer <= layer for layer, donor in enumerate(donors)):
        return f"layers after the exit at {exit_layer} share K/V of layers before it"
    return ""


@dataclass
class Handover:
    """The hidden state [1, T, D] that the back starts from."""

    hidden: mx.array | None = None


@dataclass
class Stub:
    """Stands where a layer is not run: answers with the handed-over hidden state, or with its input."""

    layer: Any
    handover: Handover | None = None

    def __getattr__(self, name: str) -> Any:  # stock code reads use_sliding, layer_type, ... of every layer
        return getattr(self.layer, name)

    def __call__(self, hidden: mx.array, *args: Any, **kwargs: Any) -> Any:
        del args, kwargs
        out = self.handover.hidden if self.handover is not None else hidden
        return (out, None, None) if _returns_kv(self.layer) else out


@dataclass
class Tap:
    """A layer whose output is kept until `Stages.take_tapped`."""

    layer: Any
    states: list[mx.array]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        out = self.layer(*args, **kwargs)
        self.states.append(out[0] if isinstance(out, tuple) else out)
        return out


def _returns_kv(layer: Any) -> bool:
    return type(layer).__module__.endswith(".gemma4_text")  # its layers return (hidden, kv, offset)


@dataclass
class _Normed:
    """An inner module that skips its layers: norm(hidden)."""

    inner: Any
    handover: Handover = field(default_factory=Handover)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __call__(self, *args: Any, **kwargs: Any) -> mx.array:
        del args, kwargs
        out: mx.array = _norm(self.inner)(self.handover.hidden)
        return out


def _norm(inner: Any) -> Any:
    return inner[next(name for name in NORM_NAMES if name in inner)]


def _identity(hidden: mx.array) -> mx.array:
    return hidden


class Stages:
    """A stock model as three calls: front(tokens) -> hidden, back(tokens, hidden) -> hidden, head(hidden) -> logits.

    tokens [1, T] int32, hidden [1, T, D], logits [1, T, V]. With `exit_layer` 0 the front is empty and `back` is the
    whole stack. The back keeps the states after each number of layers in `taps`.
    """

    def __init__(self, model: Any, exit_layer: int, taps: Sequence[int] = ()) -> None:
        owner, name, inner = find_inner(model)
        self._tapped: list[mx.array] = []
        layers = list(inner["layers"])
        layers = [Tap(layer, self._tapped) if n in taps else layer for n, layer in enumerate(layers, 1)]
        self.n_layers = len(layers)
        self.exit_layer = exit_layer
        self._handover = Handover()
        self._front = _with_layers(inner, [*layers[:exit_layer], *(Stub(layer) for layer in layers[exit_layer:])])
        skipped = [Stub(layer) for layer in layers[:exit_layer]]
        if skipped:
            skipped[-1].handover = self._handover
        self._back = _with_layers(inner, [*skipped, *layers[exit_layer:]])
        self._normed = _Normed(inner)
        # Every module between the outermost and the inner one is copied, so that the stock model stays as it was.
        self._outer = _replace(model, owner, name, self._normed)

    def front(self, tokens: mx.array, cache: Sequence[Any] | None) -> mx.array:
        hidden: mx.array = self._front(tokens, cache=cache)
        return hidden

    def back(self, tokens: mx.array, hidden: mx.array | None, cache: Sequence[Any] | None) -> mx.array:
        self._handover.hidden = hidden
        self._tapped.clear()
        try:
            out: mx.array = self._back(tokens, cache=cache)
        finally:
            self._handover.hidden = None
        return out

    def take_tapped(self) -> mx.array:
        """The states [1, T, taps x D] that the newest `back` kept."""
        tapped = mx.concatenate(self._tapped, axis=-1)
        self._tapped.clear()
        return tapped

    def head(self, hidden: mx.array) -> mx.array:
        self._normed.handover.hidden = hidden
        try:
            logits: mx.array = self._outer(mx.zeros(hidden.shape[:2], mx.int32))
        finally:
            self._normed.handover.hidden = None
        return logits


def _with_layers(inner: Any, layers: list[Any]) -> Any:
    part = copy.copy(inner)
    part.layers = layers
    part[next(name for name in NORM_NAMES if name in inner)] = _identity
    return part


def _replace(module: Any, owner: Any, name: str, new: Any) -> Any:
    """A shallow copy of `module` in which `owner.name` is `new`."""
    part = copy.copy(module)
    if module is owner:
        part[name] = new
        return part
    for key in INNER_NAMES:
        if key in module:
            part[key] = _replace(module[key], owner, name, new)
    return part

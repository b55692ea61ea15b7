"""Mistakes in the shared forward of MLX: each patches the backend, and a check of several conversations must notice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from edgeinfer.protocols import Ask


def rows_of_another_ask(patch: pytest.MonkeyPatch) -> None:
    from edgeinfer.backends.mlx.model import MlxModel

    true = MlxModel.run
    patch.setattr(MlxModel, "run", lambda self, asks: list(true(self, asks))[::-1])


def positions_of_another_ask(patch: pytest.MonkeyPatch) -> None:
    """The rows of a forward turn by the positions of the parts in reverse order."""
    from edgeinfer.backends.mlx.forward import PackedLayer

    true = PackedLayer.__init__

    def init(self: Any, rings: Any, cuts: Any, offset: Any) -> None:
        true(self, rings, cuts, offset[::-1])

    patch.setattr(PackedLayer, "__init__", init)


def keys_of_a_neighbor(patch: pytest.MonkeyPatch) -> None:
    """The rows of a forward attend to the ring of its first conversation."""
    from edgeinfer.backends.mlx.forward import PackedLayer

    true = PackedLayer.attend

    def attend(self: Any, queries: Any, scale: float, sink_logits: Any) -> Any:
        self._rings = [self._rings[0]] * len(self._rings)
        return true(self, queries, scale, sink_logits)

    patch.setattr(PackedLayer, "attend", attend)


def eviction_of_a_neighbor(patch: pytest.MonkeyPatch) -> None:
    """What one conversation evicts is wiped from the rings of all."""
    import mlx.core as mx

    from edgeinfer.backends.mlx.cache import MlxCache

    true_init, true_begin = MlxCache.__init__, MlxCache.begin
    caches: list[Any] = []

    def init(self: Any, *rest: Any) -> None:
        true_init(self, *rest)
        caches.append(self)

    def begin(self: Any, max_rows: int) -> Any:
        gone = [self.policy.slot(position) for position in self.policy.evicted(self.length)]
        for cache in caches:
            if gone and cache is not self and cache.n_bytes:
                for layer in cache.layers:
                    layer.ring[:, :, mx.array(gone)] = mx.zeros((), layer.ring.dtype)
        return true_begin(self, max_rows)

    patch.setattr(MlxCache, "__init__", init)
    patch.setattr(MlxCache, "begin", begin)


def rings_reused_with_their_length(patch: pytest.MonkeyPatch) -> None:
    """A conversation that takes over rings continues where the one before it ended."""
    from edgeinfer.backends.mlx.cache import MlxCache

    true_init, true_close = MlxCache.__init__, MlxCache.close

    def init(self: Any, model: Any, policy: Any, rings: Any, *rest: Any) -> None:
        true_init(self, model, policy, rings, *rest)
        self._length = getattr(rings, "left_at", 0)

    def close(self: Any) -> None:
        if self._rings is not None:
            self._rings.left_at = self.length
        true_close(self)

    patch.setattr(MlxCache, "__init__", init)
    patch.setattr(MlxCache, "close", close)


def states_of_another_draft(patch: pytest.MonkeyPatch) -> None:
    """The late layers start from the drafted states in the reverse order of the asks."""
    from edgeinfer.backends.mlx.model import MlxModel

    true = MlxModel._early

    def early(self: Any, rounds: Sequence[Any], asks: Sequence[Ask]) -> Any:
        found = true(self, rounds, asks)
        same = len({states.shape[1] for states in found}) == 1
        return found[::-1] if same else found

    patch.setattr(MlxModel, "_early", early)


def ranked_ids_off_by_one(patch: pytest.MonkeyPatch) -> None:
    import mlx.core as mx

    from edgeinfer.backends.mlx.taught import MlxTaught

    true = MlxTaught._row

    def row(self: Any, state: Any) -> Any:
        ranked, self._ranked = self._ranked, mx.roll(self._ranked, 1)
        found = true(self, state)
        self._ranked = ranked
        return found

    patch.setattr(MlxTaught, "_row", row)


def taps_of_another_layer(patch: pytest.MonkeyPatch) -> None:
    """The tapped states reach the draft in the reverse order of their layers."""
    from edgeinfer.backends.mlx.adapter import Stages

    true = Stages.take_tapped

    def take_tapped(self: Any) -> Any:
        self._tapped.reverse()
        return true(self)

    patch.setattr(Stages, "take_tapped", take_tapped)


def taps_of_a_neighbor(patch: pytest.MonkeyPatch) -> None:
    """The tapped states of a shared forward are handed out from its end."""
    from edgeinfer.backends.mlx.forward import Forward

    true = Forward.unpack

    def unpack(self: Any, packed: Any) -> Any:
        found = true(self, packed)
        are_taps = packed.shape[-1] > 128  # the width of the tiny model
        same = len({states.shape[1] for states in found}) == 1
        return found[::-1] if are_taps and same else found

    patch.setattr(Forward, "unpack", unpack)


def keys_before_the_first_read(patch: pytest.MonkeyPatch) -> None:
    """A draft that starts late sees the empty slots before it."""
    from edgeinfer.backends.mlx.ring import Span

    patch.setattr(Span, "first", property(lambda self: 0, lambda self, value: None), raising=False)

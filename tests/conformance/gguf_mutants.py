"""Mistakes in the streams of llama.cpp: each patches the backend, and a check of several conversations must notice."""

from __future__ import annotations

from typing import Any

import pytest


def eviction_of_a_neighbor(patch: pytest.MonkeyPatch) -> None:
    """An eviction of one conversation removes keys from the streams of all."""
    from edgeinfer.backends.gguf.llama import Context

    true = Context.remove

    def remove(self: Any, start: int, stop: int = -1, *, stream: int = 0) -> None:
        for one in range(4) if stop >= 0 else (stream,):
            true(self, start, stop, stream=one)

    patch.setattr(Context, "remove", remove)


def stream_reused_without_clearing(patch: pytest.MonkeyPatch) -> None:
    from edgeinfer.backends.gguf.cache import GgufCache

    true = GgufCache.__init__

    def init(self: Any, context: Any, *rest: Any) -> None:
        context.remove = lambda *arguments, **options: None
        true(self, context, *rest)
        del context.remove

    patch.setattr(GgufCache, "__init__", init)


def values_of_another_layer(patch: pytest.MonkeyPatch) -> None:
    """The rows of a block are written into the state in reverse order of their layers."""
    from edgeinfer.backends.gguf import state

    true = state.State.cut
    patch.setattr(
        state.State, "cut", lambda self, span: true(state.State(self.layout, self.positions, self.rows[::-1]), span)
    )


def moved_without_its_keys(patch: pytest.MonkeyPatch) -> None:
    """A conversation that moves to another stream leaves its keys in the old one."""
    from edgeinfer.backends.gguf import llama

    patch.setattr(llama, "_seq_cp", lambda *arguments: None)


def taps_of_a_neighbor(patch: pytest.MonkeyPatch) -> None:
    """A conversation takes the states of the last stream of a decode."""
    from edgeinfer.backends.gguf.draft.taps import Taps

    true = Taps.take
    patch.setattr(Taps, "take", lambda self, stream: true(self, max(self._seen)))


def draft_of_a_neighbor_rolled_back(patch: pytest.MonkeyPatch) -> None:
    """A rollback removes the keys of every conversation's draft."""
    from edgeinfer.backends.gguf.draft.layer import GgufDraftLayer

    true = GgufDraftLayer.rewind

    def rewind(self: Any, length: int) -> None:
        true(self, length)
        for stream in range(4):
            self._context.remove(length, stream=stream)

    patch.setattr(GgufDraftLayer, "rewind", rewind)


def states_of_shared_steps_lost(patch: pytest.MonkeyPatch) -> None:
    """Beside others, the states of a row are not kept for its draft."""
    from edgeinfer.backends.gguf.draft.taps import Taps

    true = Taps.take

    def take(self: Any, stream: int) -> Any:
        shared = len(self._seen) > 1
        states = true(self, stream)
        return 0 * states if shared else states

    patch.setattr(Taps, "take", take)


def exit_states_of_a_neighbor(patch: pytest.MonkeyPatch) -> None:
    """A round does not look whether the states at the exit are those of its own cells."""
    from edgeinfer.backends.gguf.exit.graph import ExitGraph

    true = ExitGraph.run
    patch.setattr(ExitGraph, "run", lambda self, *asked, **rows: true(self, *asked, **rows) or True)


def early_layers_in_another_stream(patch: pytest.MonkeyPatch) -> None:
    from edgeinfer.backends.gguf.exit.contexts import SharedContext

    true = SharedContext.run
    patch.setattr(SharedContext, "run", lambda self, *rows, stream=0, **stage: true(self, *rows, stream=0, **stage))

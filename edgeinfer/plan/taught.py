"""The expected gain of a taught draft where row times were measured, and the vocabulary that it should use."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from edgeinfer.catalog.entry import TaughtDraft
from edgeinfer.device.row_times import RowTimes
from edgeinfer.shape import ModelShape

__all__ = ["expected_speedup", "sized", "too_little", "why_hopeless"]

_MIN_GAIN: Final = 1.01  # of a smaller vocabulary: less is within what was measured
# A draft that is carried costs time in every round, because states are copied out of it: 5 % of SmolLM2's at Q4_0 on
# llama.cpp, 8 to 13 % in a phone bundle. And prompt lookup alone drafts the text that is easiest. At 1.07, `auto` with
# the draft was slower than lookup (docs/speculation-taught.md); at 1.3 it was quicker. Early exit alike: at 1.03 it
# took 5 % of the time in the demo's bundle (docs/phone-speculation.md).
_WORTH_CARRYING: Final = 1.1


def sized(taught: TaughtDraft, shape: ModelShape, times: RowTimes | None) -> TaughtDraft:
    """The draft with the vocabulary that gives the most expected tokens per second; all of it where nothing is known.

    A smaller head is read faster and is right less often.
    """
    if times is None or not taught.by_vocabulary:
        return taught
    best, best_speedup = taught, _MIN_GAIN * expected_speedup(taught, shape, times)
    for n_ranked, agreement in taught.by_vocabulary:
        smaller = replace(taught, n_ranked=n_ranked, agreement=agreement)
        speedup = expected_speedup(smaller, shape, times)
        if n_ranked < taught.n_ranked and speedup > best_speedup:
            best, best_speedup = smaller, speedup
    return best


def expected_speedup(taught: TaughtDraft, shape: ModelShape, times: RowTimes) -> float:
    """Expected speed-up of the draft alone at the best fixed depth; 1.0 if no depth pays. A gate can only do better."""
    return max(1.0, _at_best_depth(taught, shape, times))


def why_hopeless(taught: TaughtDraft, shape: ModelShape, times: RowTimes | None) -> str:
    """Why the rows measured on this machine leave the draft too little to win; "" if it may win, or if nothing was
    measured."""
    if times is None or not taught.agreement:
        return ""
    return too_little(_at_best_depth(taught, shape, times))


def too_little(speedup: float) -> str:
    """Why a draft that reaches this speed-up at its best fixed depth is left out; "" if it is not."""
    hopeless = speedup < _WORTH_CARRYING
    return f"at best {speedup:.2f}x plain speed by the rows measured on this machine" if hopeless else ""


def _at_best_depth(taught: TaughtDraft, shape: ModelShape, times: RowTimes) -> float:
    layers = _weights_of_layers(taught, shape)
    read, read_then = (layers + n * shape.hidden for n in (taught.n_ranked, times.n_ranked))
    draft_s = times.draft_s * read / read_then
    tokens, reached, best = 1.0, 1.0, 0.0
    for depth, rate in enumerate(taught.agreement, start=1):
        reached *= rate
        tokens += reached
        if depth + 1 in times.verify_s:
            seconds = depth * draft_s + times.verify_s[depth + 1]
            best = max(best, tokens * times.verify_s[1] / seconds)
    return best


def _weights_of_layers(taught: TaughtDraft, shape: ModelShape) -> float:
    """Weights that a draft reads besides its head, all counted in 8 bits."""
    group = shape.kv[0]
    attention = 2 * shape.n_heads * group.head_dim + 2 * group.n_kv_heads * group.head_dim
    layers = (1 + taught.exit_layer) * shape.hidden * (attention + 3 * shape.n_ffn)
    joined = 2 * shape.hidden**2 * 4 if taught.n_taps else 0  # in float32
    return layers + joined

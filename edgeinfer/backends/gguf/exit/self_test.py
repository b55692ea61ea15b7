"""Tries drafting on the user's model before it is used, and compares the rows with plain ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from edgeinfer.prefill import prefill
from edgeinfer.protocols import Cache, Row
from edgeinfer.window import WindowPolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeinfer.types import Logits

POLICY: Final = WindowPolicy(window=384, sink=64, block=96, limit=448)  # more cells than a sharing context opens with
_N_PROMPT: Final = 12
_N_TRIED: Final = 6  # tokens after the prompt
_WRONG_BY: Final = 17  # a rejected draft is the right token id plus this
_NOISE: Final = 4.0  # allowed difference, in units of the engine's own between one row and three
_FLOOR: Final = 0.01  # and at least this part of the logits' standard deviation
_MOST: Final = 0.25  # of that deviation: a larger difference between one row and three is not rounding


def self_test(cache: Cache, n_vocab: int) -> str:
    """Draft, verify, reject and continue in an empty `cache` of POLICY. Returns what was wrong, or "".

    Costs about twelve plain tokens. Raises what the engine raises.
    """
    stride = max(1, n_vocab // (_N_PROMPT + _N_TRIED + 1))
    tokens = [(1 + index) * stride % n_vocab for index in range(_N_PROMPT + _N_TRIED)]
    prompt, tried = tokens[:_N_PROMPT], tokens[_N_PROMPT:]
    prefill(cache, prompt)
    plain = [_rows(cache, [token], keep=1)[0] for token in tried]
    cache.rewind(_N_PROMPT)
    batch = _rows(cache, tried[:3], keep=0)
    rounding, spread = _distance(batch, plain[:3]), float(np.std(plain[0]))
    if not rounding <= _MOST * spread:
        return f"several rows at once differ from plain ones by {rounding:.3g}; the logits' spread is {spread:.3g}"
    bound = max(_NOISE * rounding, _FLOOR * spread)
    return _compare(cache, tried, plain, n_vocab, bound)


def _compare(cache: Cache, tried: list[int], plain: Sequence[Logits], n_vocab: int, bound: float) -> str:
    wrong = [(token + _WRONG_BY) % n_vocab for token in tried]
    steps: tuple[tuple[str, list[int], list[int], int], ...] = (
        # name, drafted tokens, verified tokens, rows to keep
        ("rows after drafts", tried[:2], tried[:3], 2),
        ("rows after a stale draft", [tried[2], wrong[3]], tried[2:4], 1),
        ("rows after drafts that were all kept", tried[3:5], tried[3:5], 2),
        ("a plain row after them", [], tried[5:6], 1),
    )
    at = 0
    for what, drafted, verified, keep in steps:
        found = _rows(cache, verified, drafted=drafted, keep=keep)
        distance = _distance(found, plain[at : at + len(found)])
        if not distance <= bound:
            return f"{what} differ from plain ones by {distance:.3g}, more than {bound:.3g}"
        at += keep
    return ""


def _rows(cache: Cache, tokens: Sequence[int], *, keep: int, drafted: Sequence[int] = ()) -> list[Logits]:
    step = cache.begin(max(len(tokens), len(drafted)))
    try:
        for token in drafted:
            step.draft(token)
        rows: list[Logits] = [_copied(row) for row in step.verify(tokens)]
        step.commit(keep)
        return rows
    finally:
        step.rollback()


def _copied(row: Row) -> Logits:
    return row.numpy().copy()


def _distance(found: Sequence[Logits], wanted: Sequence[Logits]) -> float:
    """The largest root mean square difference of a row."""
    return max(float(np.sqrt(np.mean((a - b) ** 2))) for a, b in zip(found, wanted, strict=True))

"""How often what followed earlier follows again, by what the text does now: it copies, or it is new.

Two tables of rates, and the odds of being in the first, moved by every match that came true or not. A model that
repeats a text nearly always goes on as the text does; in new text the same match says little.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import exp, log
from typing import Final

_LENGTHS: Final = (1, 2, 4, 8, 16)  # match lengths from which a row of rates counts
_ROW: Final = tuple(max(0, sum(least <= length for least in _LENGTHS) - 1) for length in range(_LENGTHS[-1] + 1))
# By length, then by fork (see TextIndex). Counted in the demo's answers to the bench's prompts: in copies and
# summaries, and in the others. What a model does itself is learned from there on.
_COPIED: Final = ((0.95, 0.35, 0.35), (0.94, 0.78, 0.55), (0.97, 0.86, 0.72), (0.98, 0.90, 0.73), (0.985, 0.88, 0.87))
_NEW: Final = ((0.25, 0.19, 0.19), (0.52, 0.46, 0.38), (0.78, 0.73, 0.48), (0.90, 0.80, 0.65), (0.97, 0.92, 0.88))
_FIRST_ODDS: Final = log(0.06 / 0.94)  # of copying, before anything is seen
_MOST_ODDS: Final = 4.0  # nothing is ever surer than this, so that a change shows soon
_FADE: Final = 0.98  # of the odds, with every match
_LEARN: Final = 0.02  # how far a rate moves with a match
_LOW: Final = 0.01  # where it ends when all fail,
_HIGH: Final = 0.99  # and when none does
_KEPT: Final = 0.3  # of the odds, and of what rates have learned, in another conversation
_FAR: Final = 0.1  # what is reached less often is not worth a thought


def _evidence(hit: bool) -> tuple[tuple[float, ...], ...]:
    """What a match that came true or failed says for copying: logarithms, by length and fork."""
    return tuple(
        tuple(log(a / b if hit else (1 - a) / (1 - b)) for a, b in zip(copied, new, strict=True))
        for copied, new in zip(_COPIED, _NEW, strict=True)
    )


_EVIDENCE: Final = (_evidence(False), _evidence(True))


class HitRates:
    def __init__(self) -> None:
        self._odds = _FIRST_ODDS  # logarithm
        self._copied = [list(row) for row in _COPIED]
        self._new = [list(row) for row in _NEW]

    def begin_conversation(self) -> None:
        """Another conversation."""
        self._odds = _FIRST_ODDS + _KEPT * (self._odds - _FIRST_ODDS)
        for rates, first in ((self._copied, _COPIED), (self._new, _NEW)):
            for row, first_row in zip(rates, first, strict=True):
                row[:] = [prior + _KEPT * (rate - prior) for rate, prior in zip(row, first_row, strict=True)]

    def learn(self, length: int, fork: int, hit: bool) -> None:
        """The token after a match of `length` was the expected one, or was not."""
        row = _ROW[min(length, _LENGTHS[-1])]
        rates = self._copied[row] if self._odds > 0.0 else self._new[row]
        rates[fork] += _LEARN * ((_HIGH if hit else _LOW) - rates[fork])
        odds = _FIRST_ODDS + _FADE * (self._odds - _FIRST_ODDS) + _EVIDENCE[hit][row][fork]
        self._odds = min(max(odds, -_MOST_ODDS), _MOST_ODDS)

    def acceptance(self, length: int, forks: Iterable[int]) -> list[float]:
        """The chance of a hit at each of the places after a match of `length`, given hits at those before; cut where
        hardly anything arrives."""
        copied = 1 / (1 + exp(-self._odds))
        new = 1 - copied
        reached, found = 1.0, []
        for at, fork in enumerate(forks, length):
            row = _ROW[min(at, _LENGTHS[-1])]
            copied *= self._copied[row][fork]
            new *= self._new[row][fork]
            found.append((copied + new) / reached)
            reached = copied + new
            if reached < _FAR:
                break
        return found

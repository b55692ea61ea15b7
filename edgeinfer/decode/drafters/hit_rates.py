"""Acceptance rates for prompt lookup, as a two-state mixture: the model is copying, or it is writing new text.

Each state has a table of rates. Every match that succeeds or fails moves the probability of the states: a model that
repeats a text nearly always continues as the text does, while in new text the same match says little.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import exp, log
from typing import Final

MATCH_LENGTHS: Final = (1, 2, 4, 8, 16)  # the shortest match of each row of a table

# Rates by row, then by fork (see TextIndex). `python -m benchmarks lookup_priors` fitted them to the answers of two
# models to prompts that are not in `edgeinfer bench speculation`; docs/log.md has the figures. A match of 16 tokens in
# new text is mostly a model that repeats itself without end.
COPYING_RATES: Final = (
    (0.77, 0.14, 0.14),
    (0.93, 0.83, 0.61),
    (0.95, 0.90, 0.71),
    (0.967, 0.94, 0.79),
    (0.977, 0.93, 0.86),
)
NEW_TEXT_RATES: Final = (
    (0.27, 0.12, 0.12),
    (0.59, 0.39, 0.24),
    (0.71, 0.64, 0.47),
    (0.81, 0.76, 0.76),
    (0.99, 0.99, 0.99),
)

# Log odds that the model is copying. One conversation in five is taken to begin with a copy: of 0.06 to 0.5, this lost
# nothing on new text and gained most on copies, with the rates of one model simulated on the answers of the other.
PRIOR_LOG_ODDS: Final = log(0.2 / 0.8)
MAX_LOG_ODDS: Final = 4.0  # lets a change show within a few matches
LOG_ODDS_DECAY: Final = 0.98  # towards the prior, with every match

LEARNING_RATE: Final = 0.02  # of the tables, with every match
MIN_RATE: Final = 0.01
MAX_RATE: Final = 0.99
KEPT_IN_NEW_CONVERSATION: Final = 0.3  # of the log odds and of what the tables have learned
MIN_REACHED: Final = 0.1  # a draft that is reached less often is not considered


def length_class(length: int) -> int:
    """The row of a table for a match of `length` tokens."""
    return _ROW[min(length, MATCH_LENGTHS[-1])]


_ROW: Final = tuple(
    max(0, sum(shortest <= length for shortest in MATCH_LENGTHS) - 1) for length in range(MATCH_LENGTHS[-1] + 1)
)


def _evidence(hit: bool) -> tuple[tuple[float, ...], ...]:
    """Log likelihood ratio of copying against new text for a match that succeeded or failed, by row and fork."""
    return tuple(
        tuple(log(a / b if hit else (1 - a) / (1 - b)) for a, b in zip(copied, new, strict=True))
        for copied, new in zip(COPYING_RATES, NEW_TEXT_RATES, strict=True)
    )


_EVIDENCE: Final = (_evidence(False), _evidence(True))


class HitRates:
    """What one conversation has shown about matches."""

    def __init__(self) -> None:
        self._log_odds = PRIOR_LOG_ODDS
        self._copying = [list(row) for row in COPYING_RATES]
        self._new_text = [list(row) for row in NEW_TEXT_RATES]

    def begin_conversation(self) -> None:
        """Another conversation begins: move most of the way back to the priors."""
        kept = KEPT_IN_NEW_CONVERSATION
        self._log_odds = PRIOR_LOG_ODDS + kept * (self._log_odds - PRIOR_LOG_ODDS)
        for rates, priors in ((self._copying, COPYING_RATES), (self._new_text, NEW_TEXT_RATES)):
            for row, prior_row in zip(rates, priors, strict=True):
                row[:] = [prior + kept * (rate - prior) for rate, prior in zip(row, prior_row, strict=True)]

    def learn(self, length: int, fork: int, hit: bool) -> None:
        """The token after a match of `length` was the expected one, or was not."""
        row = length_class(length)
        rates = self._copying[row] if self._log_odds > 0.0 else self._new_text[row]
        rates[fork] += LEARNING_RATE * ((MAX_RATE if hit else MIN_RATE) - rates[fork])
        decayed = PRIOR_LOG_ODDS + LOG_ODDS_DECAY * (self._log_odds - PRIOR_LOG_ODDS)
        self._log_odds = min(max(decayed + _EVIDENCE[hit][row][fork], -MAX_LOG_ODDS), MAX_LOG_ODDS)

    def acceptance(self, length: int, forks: Iterable[int]) -> list[float]:
        """Acceptance rate of each draft after a match of `length`, given that those before it are accepted.

        `forks` has the fork of each draft. The list ends where hardly any round arrives.
        """
        copying = 1 / (1 + exp(-self._log_odds))
        new_text = 1 - copying
        reached, rates = 1.0, []
        for at, fork in enumerate(forks, length):
            row = length_class(at)
            copying *= self._copying[row][fork]
            new_text *= self._new_text[row][fork]
            rates.append((copying + new_text) / reached)
            reached = copying + new_text
            if reached < MIN_REACHED:
                break
        return rates

"""Prompt lookup: what followed the longest earlier occurrence of the newest tokens, as drafts that cost nothing.

Prompt lookup decoding (A. Saxena, 2023; transformers calls it `prompt_lookup_num_tokens`). hit_rates.py estimates how
likely a draft is to be accepted. It learns from every emitted token, drafted or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from edgeinfer.decode.drafters.hit_rates import HitRates
from edgeinfer.decode.drafters.kind import Built, DrafterInputs, DrafterKind
from edgeinfer.decode.drafters.text_index import LONGEST, Match, TextIndex
from edgeinfer.decode.policy.arms import Arm, Outcome
from edgeinfer.decode.policy.costs import Costs
from edgeinfer.decode.policy.known import KnownDrafts
from edgeinfer.decode.policy.offers import OVERESTIMATE, Offer, best_length
from edgeinfer.plan.speculation import DrafterFacts, Target
from edgeinfer.protocols import Round, TokenLike
from edgeinfer.types import Tokens, common_prefix, compact

__all__ = ["LOOKUP", "Lookup", "LookupEstimator", "Match"]

NAME: Final = "lookup"
MAX_INDEXED: Final = 16_384  # tokens; beyond this, only the newest half is kept


class Lookup:
    """Drafts from the conversation itself. A step costs microseconds, whatever the length of the context."""

    name = NAME

    def __init__(self) -> None:
        self.rates = HitRates()
        self._text = TextIndex()
        self._first = 0  # index in the conversation of the first token in `_text`
        self._emitted: list[int] = []  # not yet in `_text`
        self._match: Match | None = None

    def reset(self, context: Tokens) -> None:
        """Index `context`. Its tokens do not change the rates, because the model did not just emit them."""
        self._emitted.clear()
        known = self._text.tokens
        end = self._first + len(known)
        overlap = compact(context[self._first : end])
        if overlap == known and len(context) - self._first <= MAX_INDEXED:
            self._add(context[end:])
            return
        if overlap != known and common_prefix(known, overlap) < len(known) // 2:
            self.rates.begin_conversation()  # a smaller difference is an edit of the same conversation
        self._index(context, 0)

    def extend(self, tokens: Tokens) -> None:
        self._emitted.extend(tokens)

    def propose(self, round: Round, limit: int) -> Sequence[TokenLike]:
        del round
        match = self.match()
        return self.tokens(match, limit) if match and limit > 0 else []

    def known(self, limit: int) -> KnownDrafts | None:
        match = self.match()
        if match is None or limit < 1:
            return None
        acceptance = self.acceptance(match, limit)
        return KnownDrafts(NAME, self.tokens(match, len(acceptance)), acceptance)

    def match(self) -> Match | None:
        """The longest earlier occurrence of the newest tokens."""
        for token in self._emitted:
            self._learn(token)
        self._emitted.clear()
        if len(self._text.tokens) > MAX_INDEXED:
            self._index(self._text.tokens, self._first)
        return self._match

    def acceptance(self, match: Match, limit: int) -> list[float]:
        """Acceptance rate of each of the next `limit` tokens at `match`, given that those before it are accepted.
        The list is shorter if the last ones would rarely be reached."""
        return self.rates.acceptance(match.length, self._text.forks_after(match, limit))

    def tokens(self, match: Match, limit: int) -> list[int]:
        """The next `limit` tokens at `match`."""
        return self._text.after(match, limit)

    def _index(self, tokens: Tokens, first: int) -> None:
        """Start a new index with `tokens`, or with the newest of them. `first` is the index of `tokens[0]` in the
        conversation."""
        skipped = len(tokens) - MAX_INDEXED // 2 if len(tokens) > MAX_INDEXED else 0
        self._first = first + skipped
        self._text = TextIndex()
        self._add(tokens[skipped:])

    def _add(self, tokens: Tokens) -> None:
        for token in tokens:
            self._text.add(token)
        self._match = self._text.longest_match()

    def _learn(self, token: int) -> None:
        text, match = self._text, self._match
        hit = False
        if match is not None:
            hit = text.tokens[match.source] == token
            self.rates.learn(match.length, text.fork_at(match), hit)
        text.add(token)
        if match is not None and hit:  # the longest match continues; no other can have become longer
            self._match = Match(match.source + 1, min(match.length + 1, LONGEST))
        else:
            self._match = text.longest_match()


class LookupEstimator:
    """Lookup knows its drafts before the round, so its offer is for these drafts."""

    name = NAME
    # A few odd numbers of drafts, so that rows come in even counts: kernels process rows in tiles, and an engine reuses
    # its graph for a number of rows that it has seen.
    LENGTHS: Final = frozenset({1, 3, 5, 7, 11, 15})

    def __init__(self, lookup: Lookup, costs: Costs) -> None:
        self._lookup = lookup
        self._costs = costs
        self._lengths = self.LENGTHS | {costs.max_rows - 1}

    def offer(self, limit: int) -> Offer | None:
        match = self._lookup.match()
        if match is None or limit < 1:
            return None
        acceptance = self._lookup.acceptance(match, limit)
        n, tokens, time = best_length(acceptance, self._time, self._lengths)
        if not n and not self._costs.is_known("verify", 2):  # the stored time may be wrong: a trial will show it
            n, tokens, time = 1, 1.0 + acceptance[0], self._time(1)
        return Offer(Arm(self.name, n), tokens, time) if n else None

    def observe(self, outcome: Outcome) -> None:
        self._costs.observe("verify", outcome.drafted + 1, outcome.seconds)

    def _time(self, n: int) -> float:
        return self._costs.ratio("verify", n + 1) * OVERESTIMATE if n else 1.0


# docs/speculation.md: greedy copies on two x86 cores, with every drafter. Wide weights leave the processor waiting for
# memory, so more rows at once cost little. Q4_K with Q6_K is limited to three batch-invariant rows.
SPEEDUP_ON_COPIED_TEXT: Final = {
    frozenset({"F16"}): 2.0,
    frozenset({"Q8_0"}): 1.5,
    frozenset({"Q4_0"}): 1.3,
    frozenset({"Q4_K", "Q6_K"}): 1.1,
}


def _note(target: Target) -> str:
    speedup = SPEEDUP_ON_COPIED_TEXT.get(target.measured_types)
    return "prompt lookup for repeated text" + (f" (about {speedup:.1f}x on copied text)" if speedup else "")


def _build(inputs: DrafterInputs) -> Built:
    lookup = Lookup()
    return Built(lookup, LookupEstimator(lookup, inputs.costs))


LOOKUP: Final = DrafterKind(DrafterFacts(NAME, _note), _build)

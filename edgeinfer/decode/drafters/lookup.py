"""Prompt lookup: what followed the longest earlier occurrence of the newest tokens, as drafts that cost nothing.

Prompt lookup decoding (A. Saxena, 2023; transformers calls it `prompt_lookup_num_tokens`), with hash chains as in LZ77
for the search, and a hit rate for every match length learned from all tokens, also those that were not drafted.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from edgeinfer.protocols import Round, TokenLike
from edgeinfer.types import Tokens, compact

_SLOTS: Final = 1 << 15  # of each table; besides these an index takes 8 bytes a token
_SPREAD: Final = 40503  # odd, about _SLOTS times the golden ratio: pairs spread over the slots
_CHAIN: Final = 12  # earlier occurrences looked at
_LONGEST: Final = 48  # a longer match is as good
_PROMPT: Final = 64  # more new tokens than this at once are a prompt: nothing is learned from them
_BUCKETS: Final = (1, 2, 3, 4, 6, 9, 13, 20, 32)  # match lengths from which a hit rate counts
# Before anything is learned. Of a few sets tried on the bench's prompts, the best with the row costs of two machines.
_PRIOR: Final = (0.28, 0.50, 0.65, 0.75, 0.82, 0.88, 0.92, 0.95, 0.97)
_PRIOR_WEIGHT: Final = 6.0
_MEMORY: Final = 64.0  # observations that a hit rate remembers, so that it follows a change of topic
# Another conversation starts halfway between the last ones and knowing nothing, as copying says little about a story.
_KEPT: Final = 0.5
_KEPT_WEIGHT: Final = 12.0


@dataclass(frozen=True, slots=True)
class Match:
    """The next tokens are expected at `source` in the context; `length` tokens before it equal the newest ones."""

    source: int
    length: int


class HitRates:
    """How often the token after a match of some length was the expected one."""

    def __init__(self) -> None:
        self._hits = [rate * _PRIOR_WEIGHT for rate in _PRIOR]
        self._tries = [_PRIOR_WEIGHT] * len(_PRIOR)
        self._rates = list(_PRIOR)
        self._bucket = [0] * (_LONGEST + 1)
        for length in range(1, _LONGEST + 1):
            self._bucket[length] = max(i for i, least in enumerate(_BUCKETS) if least <= length)

    def begin(self) -> None:
        """Another conversation."""
        for bucket, prior in enumerate(_PRIOR):
            rate = _KEPT * self._rates[bucket] + (1 - _KEPT) * prior
            self._tries[bucket] = min(self._tries[bucket], _KEPT_WEIGHT)
            self._hits[bucket] = rate * self._tries[bucket]
            self._rates[bucket] = rate

    def rate(self, length: int) -> float:
        return self._rates[self._bucket[min(length, _LONGEST)]]

    def learn(self, length: int, hit: bool) -> None:
        bucket = self._bucket[min(length, _LONGEST)]
        if self._tries[bucket] >= _MEMORY:
            self._hits[bucket] *= 1 - 1 / _MEMORY
            self._tries[bucket] *= 1 - 1 / _MEMORY
        self._hits[bucket] += hit
        self._tries[bucket] += 1.0
        self._rates[bucket] = self._hits[bucket] / self._tries[bucket]


class Lookup:
    """Drafts from the conversation itself. A step costs microseconds, whatever the length of the context."""

    name = "lookup"

    def __init__(self, *, least_match: int = 2) -> None:
        self.rates = HitRates()
        self._least = least_match
        self._forget()

    def match(self, context: Tokens) -> Match | None:
        """Where the next tokens of `context` [n] may be found, or None."""
        self._follow(context)
        return self._match

    def chances(self, match: Match, limit: int) -> list[float]:
        """The chance that each of the next `limit` tokens at `match` is accepted, given those before it."""
        return [self.rates.rate(match.length + ahead) for ahead in range(limit)]

    def tokens(self, match: Match, limit: int) -> list[int]:
        """`limit` tokens at `match`; a match that overlaps the end of the context goes on with its own tokens."""
        known = self._tokens
        drafts = known[match.source : match.source + limit].tolist()
        period = len(known) - match.source
        while len(drafts) < limit:
            drafts.append(drafts[len(drafts) - period])
        return drafts

    def propose(self, round: Round, context: Tokens, limit: int) -> Sequence[TokenLike]:
        del round
        match = self.match(context)
        return self.tokens(match, limit) if match and match.length >= self._least and limit > 0 else []

    def observe(self, emitted: Tokens) -> None:
        del emitted  # the context itself tells what came, at the next call

    def _forget(self) -> None:
        self.rates.begin()
        self._seen: Tokens = ()  # the very object indexed last; held, so that `is` means the same conversation
        self._tokens = compact()
        # by token, and by pair: where the newest of the slot ended, or -1; for each place, the pair of its slot before
        self._singles = array("i", [-1]) * _SLOTS
        self._pairs = array("i", [-1]) * _SLOTS
        self._earlier = compact()
        self._match: Match | None = None

    def _follow(self, context: Tokens) -> None:
        known = self._tokens
        n = len(known)
        if context is self._seen and len(context) == n + 1 and context[n - 1] == known[-1]:
            self._step(context[n])  # the usual case: one token more of the same conversation
            return
        grown = context is self._seen and len(context) >= n and (not n or context[n - 1] == known[-1])
        if not grown and (len(context) < n or compact(context[:n]) != known):
            self._forget()
            n = 0
        self._seen = context
        new = context[n:]
        if n and len(new) <= _PROMPT:
            for token in new:
                self._step(token)
        elif new:
            for token in new:
                pair, single = self._index(token)
            self._match = self._search(pair, single)

    def _step(self, token: int) -> None:
        match = self._match
        hit = False
        if match is not None:
            hit = self._tokens[match.source] == token
            self.rates.learn(match.length, hit)
        pair, single = self._index(token)
        if match is not None and hit:  # the longest match before, one longer: no other can be longer now
            self._match = Match(match.source + 1, min(match.length + 1, _LONGEST))
        else:
            self._match = self._search(pair, single)

    def _index(self, token: int) -> tuple[int, int]:
        """Add `token`; where its slots' newest pair and token before it ended, or -1."""
        known, pairs, singles = self._tokens, self._pairs, self._singles
        last = known[-1] if known else 0
        known.append(token)
        end = len(known)
        slot = (last * _SPREAD + token) % _SLOTS
        pair, pairs[slot] = pairs[slot], end
        self._earlier.append(pair)
        slot = token % _SLOTS
        single, singles[slot] = singles[slot], end
        return pair, single

    def _search(self, pair: int, single: int) -> Match | None:
        """The longest match of two tokens or more among the pair's places, the newest of several; else of one."""
        best = place = 0
        for _ in range(_CHAIN):
            if pair < 0:
                break
            length = self._common(pair)
            if length > best:
                best, place = length, pair
            pair = self._earlier[pair - 1]
        if best > 1:
            return Match(place, best)
        return Match(single, 1) if single > 0 and self._tokens[single - 1] == self._tokens[-1] else None

    def _common(self, place: int) -> int:
        """How many tokens before `place` equal the newest ones."""
        known, length, most = self._tokens, 0, min(place, _LONGEST)
        end = len(known)
        while length < most and known[place - 1 - length] == known[end - 1 - length]:
            length += 1
        return length

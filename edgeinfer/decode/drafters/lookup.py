"""Prompt lookup: what followed the longest earlier occurrence of the newest tokens, as drafts that cost nothing.

Prompt lookup decoding (A. Saxena, 2023; transformers calls it `prompt_lookup_num_tokens`), with hash chains as in LZ77
for the search. How likely a draft is comes from hit_rates.py, which learns from all tokens, also those not drafted.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from edgeinfer.decode.drafters.hit_rates import Forks, HitRates
from edgeinfer.protocols import Round, TokenLike
from edgeinfer.types import Tokens, compact

_SLOTS: Final = 1 << 15  # of each table; besides these an index takes 13 bytes a token
_SPREAD: Final = 40503  # odd, about _SLOTS times the golden ratio: pairs spread over the slots
_CHAIN: Final = 12  # earlier occurrences looked at
_LONGEST: Final = 48  # a longer match is as good
_PROMPT: Final = 64  # more new tokens than this at once are a prompt: nothing is learned from them


@dataclass(frozen=True, slots=True)
class Match:
    """The next tokens are expected at `source` in the context; `length` tokens before it equal the newest ones."""

    source: int
    length: int


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
        """The chance that each of the next `limit` tokens at `match` is accepted, given those before it. Fewer where
        the last of them would hardly be reached."""
        return self.rates.chances(match.length, self._forks_at(match, limit))

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
        # by token, and by pair: where the newest of the slot ended, or -1; for each place, the one of its slot before
        self._singles = array("i", [-1]) * _SLOTS
        self._pairs = array("i", [-1]) * _SLOTS
        self._earlier_pair, self._earlier_single = compact(), compact()
        self._forks = bytearray(1)  # for each place, as in hit_rates.Place
        self._alike = (-1, -1)  # the newest place before the end with the same last token, and two; or -1
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
            fork = self._forks[match.source]
            self.rates.learn(match.length, fork if match.length > 1 else min(fork, 1), hit)
        pair, single = self._index(token)
        if match is not None and hit:  # the longest match before, one longer: no other can be longer now
            self._match = Match(match.source + 1, min(match.length + 1, _LONGEST))
        else:
            self._match = self._search(pair, single)

    def _index(self, token: int) -> tuple[int, int]:
        """Add `token`; where its slots' newest pair and token before it ended, or -1."""
        known, pairs, singles = self._tokens, self._pairs, self._singles
        if known:
            self._note_fork(token)
        last = known[-1] if known else 0
        known.append(token)
        end = len(known)
        slot = (last * _SPREAD + token) % _SLOTS
        pair, pairs[slot] = pairs[slot], end
        self._earlier_pair.append(pair)
        slot = token % _SLOTS
        single, singles[slot] = singles[slot], end
        self._earlier_single.append(single)
        if single > 0 and known[single - 1] != token:
            single = self._newest_alike(end, 1)
        if pair < 2:  # no token stands before the first one
            pair = -1
        elif known[pair - 1] != token or known[pair - 2] != last:
            pair = self._newest_alike(end, 2)
        self._alike = (single, pair)
        forks = self._forks
        fork = forks[pair] if pair > 0 else 0
        forks.append(1 if not fork and single > 0 and forks[single] else fork)
        return pair, single

    def _note_fork(self, token: int) -> None:
        """`token` comes next: if another one came where the text ended alike, all those places fork. They do so once,
        as a place takes over the fork of the newest one that is like it."""
        forks, end = self._forks, len(self._tokens)
        fork = forks[end]
        if fork == 2:
            return
        for n, newest in enumerate(self._alike, start=1):
            if fork < n and newest > 0 and self._tokens[newest] != token:
                forks[end] = n
                for place in self._ends_alike(end, n, end):
                    forks[place] = max(forks[place], n)

    def _newest_alike(self, place: int, n: int) -> int:
        return next(self._ends_alike(place, n, _CHAIN), -1)

    def _ends_alike(self, place: int, n: int, most: int) -> Iterator[int]:
        """Of the `most` places before `place` in its slot's chain, newest first, those that end with the same `n`
        tokens (1 or 2)."""
        known = self._tokens
        earlier = self._earlier_single if n == 1 else self._earlier_pair
        end = known[place - n : place]
        for _ in range(most):
            place = earlier[place - 1]
            if place < n:
                return
            if known[place - n : place] == end:
                yield place

    def _forks_at(self, match: Match, limit: int) -> Forks:
        """Of the next `limit` tokens at `match`. Those behind the end of the context repeat themselves."""
        source = match.source
        forks = self._forks[source : source + limit]
        period = len(self._tokens) - source
        while len(forks) < limit:
            forks.append(forks[len(forks) - period])
        if match.length == 1:  # the two tokens before it are not those here
            forks[0] = min(forks[0], 1)
        return forks

    def _search(self, pair: int, single: int) -> Match | None:
        """The longest match of two tokens or more among the pair's places, the newest of several; else of one."""
        best = place = 0
        for _ in range(_CHAIN):
            if pair < 0:
                break
            length = self._common(pair)
            if length > best:
                best, place = length, pair
            pair = self._earlier_pair[pair - 1]
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

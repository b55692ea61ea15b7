"""A text by its endings: where it ended before as it ends now, and where it went on in several ways.

Hash chains as in LZ77, by the last token and by the last two. A place is the number of tokens before it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Final, NamedTuple, TypeVar

from edgeinfer.types import compact

_SLOTS: Final = 1 << 15  # of each table; besides these an index takes 13 bytes a token
_SPREAD: Final = 40503  # odd, about 2**16 over the golden ratio: pairs spread over the slots
_CHAIN: Final = 12  # places of a slot looked at, the newest ones
LONGEST: Final = 48  # a longer match is as good


class Match(NamedTuple):
    """The next tokens are expected at `source`; `length` tokens before it equal the newest ones."""

    source: int
    length: int


class TextIndex:
    """Grows by a token at a time, which costs microseconds whatever the length. Only where a text forks for the first
    time, all places that end alike are told: each token and each pair does so once."""

    def __init__(self) -> None:
        self.tokens = compact()
        # Of each place. 0: after the token before it always the same one came; 1: others came too, but not after the
        # last two; 2: also after the last two.
        self.forks = bytearray(1)
        # Where the newest of a slot is, or -1; and for each place, the one before it in its slot.
        self._singles, self._pairs = array("i", [-1]) * _SLOTS, array("i", [-1]) * _SLOTS
        self._earlier_single, self._earlier_pair = compact(), compact()
        self._single = self._pair = -1  # the newest place before the end with the same last token, and last two

    def add(self, token: int) -> None:
        tokens, forks = self.tokens, self.forks
        if tokens:
            self._note_fork(token)
        last = tokens[-1] if tokens else 0
        tokens.append(token)
        end = len(tokens)
        slot = token % _SLOTS
        single, self._singles[slot] = self._singles[slot], end
        self._earlier_single.append(single)
        if single > 0 and tokens[single - 1] != token:
            single = self._newest_alike(1)
        slot = (last * _SPREAD + token) % _SLOTS
        pair, self._pairs[slot] = self._pairs[slot], end
        self._earlier_pair.append(pair)
        if pair < 2:  # no token stands before the first one
            pair = -1
        elif tokens[pair - 1] != token or tokens[pair - 2] != last:
            pair = self._newest_alike(2)
        self._single, self._pair = single, pair
        fork = forks[pair] if pair > 0 else 0
        forks.append(1 if not fork and single > 0 and forks[single] else fork)

    def longest_match(self) -> Match | None:
        """The longest at the newest places of the last two tokens, the newest of several; else one token."""
        best, source, place = 0, 0, self._pair
        for _ in range(_CHAIN):
            if place < 0:
                break
            length = self._common(place)
            if length > best:
                best, source = length, place
            place = self._earlier_pair[place - 1]
        if best > 1:
            return Match(source, best)
        return Match(self._single, 1) if self._single > 0 else None

    def after(self, match: Match, limit: int) -> list[int]:
        """`limit` tokens at `match`; a match that overlaps the end goes on with its own tokens."""
        part = self.tokens[match.source : match.source + limit].tolist()
        return _repeated(part, limit, len(self.tokens) - match.source)

    def forks_after(self, match: Match, limit: int) -> bytearray:
        """Of the places of `limit` tokens at `match`. Behind the end, those that the text had so far."""
        part = self.forks[match.source : match.source + limit]
        forks = _repeated(part, limit, len(self.tokens) - match.source)
        forks[0] = self.fork_at(match)
        return forks

    def fork_at(self, match: Match) -> int:
        fork = self.forks[match.source]
        return fork if match.length > 1 else min(fork, 1)  # the two tokens there are not those at the end

    def _note_fork(self, token: int) -> None:
        """`token` comes next: if another one came where the text ended alike, all those places fork. They do so once,
        as a place takes over the fork of the newest one that is like it."""
        forks, end = self.forks, len(self.tokens)
        fork = forks[end]
        if fork == 2:
            return
        for n, newest in ((1, self._single), (2, self._pair)):
            if fork < n and newest > 0 and self.tokens[newest] != token:
                forks[end] = n
                for place in self._ending_alike(n, end):
                    forks[place] = n

    def _newest_alike(self, n: int) -> int:
        return next(self._ending_alike(n, _CHAIN), -1)

    def _ending_alike(self, n: int, most: int) -> Iterator[int]:
        """Of the `most` places before the end in its slot's chain, newest first, those that end with the same `n`
        tokens (1 or 2)."""
        tokens, place = self.tokens, len(self.tokens)
        earlier = self._earlier_single if n == 1 else self._earlier_pair
        end = tokens[-n:]
        for _ in range(most):
            place = earlier[place - 1]
            if place < n:
                return
            if tokens[place - n : place] == end:
                yield place

    def _common(self, place: int) -> int:
        """How many tokens before `place` equal the newest ones."""
        tokens, length, most = self.tokens, 0, min(place, LONGEST)
        end = len(tokens)
        while length < most and tokens[place - 1 - length] == tokens[end - 1 - length]:
            length += 1
        return length


_Part = TypeVar("_Part", list[int], bytearray)


def _repeated(part: _Part, limit: int, period: int) -> _Part:
    """`part`, which ends with the text where it is shorter than `limit`, then again and again its last `period`."""
    while len(part) < limit:
        part.append(part[-period])
    return part

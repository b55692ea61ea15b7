"""Finds earlier occurrences of the newest tokens of a growing text, and marks where the text forked.

Hash chains as in LZ77, one by the last token and one by the last two. A position is the number of tokens before it. It
forks when tokens like those before it were followed by different tokens.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Final, NamedTuple, TypeVar

from edgeinfer.types import compact

# The tables have a fixed size; the rest of an index takes 13 bytes a token.
SLOTS: Final = 1 << 15
HASH_MULTIPLIER: Final = 40503  # odd, about 2**16 over the golden ratio, so that pairs spread over the slots
MAX_CHAIN: Final = 12  # positions of a slot that are searched, newest first
LONGEST: Final = 48  # longer matches count as this long


class Match(NamedTuple):
    """The next tokens are expected at `source`; the `length` tokens before it equal the newest ones."""

    source: int
    length: int


class TextIndex:
    """Adding a token costs microseconds, whatever the length of the text.

    The first time a context continues in a second way, every earlier occurrence is marked as a fork. This happens at
    most once per token and per pair, so adding a token is amortized O(1).
    """

    def __init__(self) -> None:
        self.tokens = compact()
        # Fork of each position. 0: the token before it was always followed by the same token; 1: by different tokens,
        # but the last two tokens were not; 2: the last two were, too.
        self.forks = bytearray(1)
        # The newest position of each slot, or -1; and for each position, the previous one of its slot.
        self._singles, self._pairs = array("i", [-1]) * SLOTS, array("i", [-1]) * SLOTS
        self._earlier_single, self._earlier_pair = compact(), compact()
        self._single = self._pair = -1  # newest earlier position with the same last token; last two

    def add(self, token: int) -> None:
        tokens, forks = self.tokens, self.forks
        if tokens:
            self._note_fork(token)
        last = tokens[-1] if tokens else 0
        tokens.append(token)
        end = len(tokens)
        slot = token % SLOTS
        single, self._singles[slot] = self._singles[slot], end
        self._earlier_single.append(single)
        if single > 0 and tokens[single - 1] != token:
            single = self._newest_equal(1)
        slot = (last * HASH_MULTIPLIER + token) % SLOTS
        pair, self._pairs[slot] = self._pairs[slot], end
        self._earlier_pair.append(pair)
        if pair < 2:  # no token stands before the first one
            pair = -1
        elif tokens[pair - 1] != token or tokens[pair - 2] != last:
            pair = self._newest_equal(2)
        self._single, self._pair = single, pair
        fork = forks[pair] if pair > 0 else 0
        forks.append(1 if not fork and single > 0 and forks[single] else fork)

    def longest_match(self) -> Match | None:
        """The longest match among the newest occurrences of the last two tokens, the newest of equally long ones; else
        an occurrence of the last token."""
        best, source, position = 0, 0, self._pair
        for _ in range(MAX_CHAIN):
            if position < 0:
                break
            length = self._common(position)
            if length > best:
                best, source = length, position
            position = self._earlier_pair[position - 1]
        if best > 1:
            return Match(source, best)
        return Match(self._single, 1) if self._single > 0 else None

    def after(self, match: Match, limit: int) -> list[int]:
        """The `limit` tokens predicted from `match`. Beyond the end of the text, they repeat with its period."""
        part = self.tokens[match.source : match.source + limit].tolist()
        return _repeated(part, limit, len(self.tokens) - match.source)

    def forks_after(self, match: Match, limit: int) -> bytearray:
        """Forks of the `limit` positions predicted from `match`, repeated like the tokens."""
        part = self.forks[match.source : match.source + limit]
        forks = _repeated(part, limit, len(self.tokens) - match.source)
        forks[0] = self.fork_at(match)
        return forks

    def fork_at(self, match: Match) -> int:
        fork = self.forks[match.source]
        return fork if match.length > 1 else min(fork, 1)  # only one token matches, so a fork after two does not apply

    def _note_fork(self, token: int) -> None:
        """`token` comes next. If a different token followed an earlier occurrence of this context, mark all occurrences
        as forks. New occurrences inherit the mark."""
        forks, end = self.forks, len(self.tokens)
        fork = forks[end]
        if fork == 2:
            return
        for n, newest in ((1, self._single), (2, self._pair)):
            if fork < n and newest > 0 and self.tokens[newest] != token:
                forks[end] = n
                for position in self._equal_positions(n, end):
                    forks[position] = n

    def _newest_equal(self, n: int) -> int:
        return next(self._equal_positions(n, MAX_CHAIN), -1)

    def _equal_positions(self, n: int, most: int) -> Iterator[int]:
        """Earlier positions after the same `n` tokens (1 or 2), newest first, out of the `most` newest of the chain."""
        tokens, position = self.tokens, len(self.tokens)
        earlier = self._earlier_single if n == 1 else self._earlier_pair
        end = tokens[-n:]
        for _ in range(most):
            position = earlier[position - 1]
            if position < n:
                return
            if tokens[position - n : position] == end:
                yield position

    def _common(self, position: int) -> int:
        """How many tokens before `position` equal the newest ones."""
        tokens, length, most = self.tokens, 0, min(position, LONGEST)
        end = len(tokens)
        while length < most and tokens[position - 1 - length] == tokens[end - 1 - length]:
            length += 1
        return length


_Part = TypeVar("_Part", list[int], bytearray)


def _repeated(part: _Part, limit: int, period: int) -> _Part:
    """`part`, extended to `limit` by repeating its last `period` elements."""
    while len(part) < limit:
        part.append(part[-period])
    return part

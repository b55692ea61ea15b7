"""Prompt lookup: what followed the longest earlier occurrence of the newest tokens, as drafts that cost nothing.

Prompt lookup decoding (A. Saxena, 2023; transformers calls it `prompt_lookup_num_tokens`). How likely a draft is comes
from hit_rates.py, which learns from all tokens, also from those that were not drafted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from edgeinfer.decode.drafters.hit_rates import HitRates
from edgeinfer.decode.drafters.text_index import LONGEST, Match, TextIndex
from edgeinfer.protocols import Round, TokenLike
from edgeinfer.types import Tokens, common_prefix, compact

__all__ = ["Lookup", "Match"]

_MOST: Final = 16_384  # tokens indexed; where there are more, the newest half of these is indexed anew


class Lookup:
    """Drafts from the conversation itself. A step costs microseconds, whatever the length of the context."""

    name = "lookup"

    def __init__(self, *, least_match: int = 2) -> None:
        self.rates = HitRates()
        self._least = least_match
        self._seen: Tokens = ()  # the very object indexed last; held, so that `is` means the same conversation
        self._first = 0  # where in it the index begins
        self._text = TextIndex()
        self._match: Match | None = None

    def match(self, context: Tokens) -> Match | None:
        """Where the next tokens of `context` [n] may be found, or None.

        A list that grows is an answer, and its tokens are learned from; another list is a prompt, which nobody drafted.
        """
        self._follow(context)
        return self._match

    def chances(self, match: Match, limit: int) -> list[float]:
        """The chance that each of the next `limit` tokens at `match` is accepted, given those before it. Fewer where
        the last of them would hardly be reached."""
        return self.rates.chances(match.length, self._text.forks_after(match, limit))

    def tokens(self, match: Match, limit: int) -> list[int]:
        """`limit` tokens at `match`."""
        return self._text.after(match, limit)

    def propose(self, round: Round, context: Tokens, limit: int) -> Sequence[TokenLike]:
        del round
        match = self.match(context)
        return self.tokens(match, limit) if match and match.length >= self._least and limit > 0 else []

    def observe(self, emitted: Tokens) -> None:
        del emitted  # the context itself tells what came, at the next call

    def _index(self, context: Tokens) -> None:
        """Index the context, or the newest part of a long one, anew."""
        self._first = len(context) - _MOST // 2 if len(context) > _MOST else 0
        self._text = TextIndex()
        self._take(context[self._first :])

    def _take(self, tokens: Tokens) -> None:
        for token in tokens:
            self._text.add(token)
        self._match = self._text.longest_match()

    def _follow(self, context: Tokens) -> None:
        known = self._text.tokens
        first, end = self._first, self._first + len(known)
        grown = context is self._seen and len(context) >= end and (not known or context[end - 1] == known[-1])
        fits = len(context) - first <= _MOST  # what is indexed can stay
        if grown and fits:
            for at in range(end, len(context)):
                self._step(context[at])
            return
        self._seen = context
        if not grown and (before := compact(context[first:end])) != known:
            if common_prefix(known, before) < len(known) // 2:
                self.rates.begin()  # another conversation, not an edited one
            fits = False
        if not fits:
            self._index(context)
        elif len(context) > end:
            self._take(context[end:])

    def _step(self, token: int) -> None:
        text, match = self._text, self._match
        hit = False
        if match is not None:
            hit = text.tokens[match.source] == token
            self.rates.learn(match.length, text.fork_at(match), hit)
        text.add(token)
        if match is not None and hit:  # the longest match before, one longer: no other can be longer now
            self._match = Match(match.source + 1, min(match.length + 1, LONGEST))
        else:
            self._match = text.longest_match()

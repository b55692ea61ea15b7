"""Answers that must be JSON of a schema: llguidance says which tokens may follow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import llguidance
import numpy as np

from edgeinfer.protocols import Tokenizer
from edgeinfer.serve.http.reading import ParameterError

if TYPE_CHECKING:
    from edgeinfer.types import Logits

__all__ = ["ANY_OBJECT", "Grammars", "JsonConstraint"]

COMPACT: Final[Any] = {"whitespace_flexible": False}  # where blanks are free, small models write them to the end
ANY_OBJECT: Final[Mapping[str, Any]] = {"type": "object"}


class Grammars:
    """Compiles schemas for one tokenizer. The trie of its vocabulary is built for the first of them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._built: llguidance.LLTokenizer | None = None

    def json(self, schema: Mapping[str, Any], *, parameter: str) -> JsonConstraint:
        """Raises ParameterError for a schema that cannot be enforced: no such request is answered unconstrained."""
        try:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=COMPACT)
            matcher = llguidance.LLMatcher(self._trie(), grammar, log_level=0)
        except ValueError as error:
            raise refused(str(error), parameter) from None
        if matcher.is_error():
            raise refused(matcher.get_error(), parameter)
        return JsonConstraint(matcher, self._tokenizer.n_vocab)

    def _trie(self) -> llguidance.LLTokenizer:
        if self._built is None:
            ends = sorted(self._tokenizer.stop_tokens)
            wrapped = llguidance.TokenizerWrapper(Vocabulary(self._tokenizer))
            self._built = llguidance.LLTokenizer(wrapped, n_vocab=self._tokenizer.n_vocab, eos_token=ends)
        return self._built


def refused(reason: str, parameter: str) -> ParameterError:
    return ParameterError(
        f"`{parameter}` cannot be held to: {plain(reason)}", parameter=parameter, hint="simplify the schema"
    )


def not_followed(matcher: llguidance.LLMatcher) -> ParameterError:
    """Some limits of llguidance are only met by the tokens of an answer."""
    return ParameterError(
        f"the schema cannot be followed further: {plain(matcher.get_error())}", hint="simplify the schema"
    )


def plain(reason: str) -> str:
    """In one line, without the state of the parser."""
    return " ".join(reason.partition("<state>")[0].split())[:300]


class Vocabulary:
    """A tokenizer as llguidance reads one."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.tokens = [tokenizer.piece(token) for token in range(tokenizer.n_vocab)]
        self.eos_token_id = min(tokenizer.stop_tokens)
        self.special_token_ids = [token for token, piece in enumerate(self.tokens) if not piece]

    def __call__(self, text: bytes | str) -> list[int]:
        text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        return self._tokenizer.encode(text, special=False)


class JsonConstraint:
    """See decode.constraint.Constraint. `complete`: the value has ended, and nothing but a stop token may follow."""

    def __init__(self, matcher: llguidance.LLMatcher, n_vocab: int) -> None:
        self._matcher = matcher
        self._bits = np.zeros((n_vocab + 31) // 32, np.int32)

    @property
    def complete(self) -> bool:
        return self._matcher.is_stopped()

    def copy(self) -> JsonConstraint:
        """A copy in the same state, for another answer."""
        return JsonConstraint(self._matcher.deep_copy(), 32 * len(self._bits))

    def masked(self, row: Logits) -> Logits:
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        if self._matcher.is_error():
            raise not_followed(self._matcher)
        allowed = np.unpackbits(self._bits.view(np.uint8), count=len(row), bitorder="little").view(np.bool_)
        return np.where(allowed, row, np.float32(-np.inf))

    def accept(self, token: int) -> None:
        if not self._matcher.consume_token(token):
            raise not_followed(self._matcher)

    def accepts(self, tokens: Sequence[int]) -> bool:
        """Take `tokens`, if all of them may follow."""
        if self._matcher.validate_tokens(list(tokens)) < len(tokens):
            return False
        for token in tokens:
            self.accept(token)
        return True

    def forced(self) -> Sequence[int]:
        return () if self._matcher.is_stopped() else self._matcher.compute_ff_tokens()

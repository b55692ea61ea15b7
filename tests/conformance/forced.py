"""Drafters and an engine that force rare events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from edgeinfer.errors import EngineError
from edgeinfer.protocols import Ask, Cache, Drafter, Model, Round, Row, TokenLike
from edgeinfer.types import Tokens
from edgeinfer.window import WindowPolicy


class Forced:
    """Proposes the `truth` that follows a prompt of `n_prompt` tokens, but a wrong token where `wrong` is true.

    `early`: the early layers run for what is proposed, as a drafter of that kind would have it.
    """

    name = "forced"

    def __init__(self, truth: Sequence[int], n_prompt: int, wrong: Callable[[int], bool], *, early: bool) -> None:
        self._truth = truth
        self._n_prompt = n_prompt
        self._wrong = wrong
        self._early = early

    def reset(self, context: Tokens) -> None:
        self._context = list(context)

    def extend(self, tokens: Tokens) -> None:
        self._context += tokens

    def propose(self, round: Round, limit: int) -> list[int]:
        first = len(self._context) - self._n_prompt
        drafts = [
            (token + 1) % 256 if self._wrong(index) else token
            for index, token in enumerate(self._truth[first : first + limit], first)
        ]
        if self._early:
            for token in [self._context[-1], *drafts][: len(drafts)]:
                round.draft(token)
        return drafts


class Primed:
    """A lookup that also finds its drafts in `truth`, because a random model repeats nothing."""

    def __init__(self, inner: Drafter, truth: Tokens) -> None:
        self.name = inner.name
        self._inner = inner
        self._truth = truth

    def reset(self, context: Tokens) -> None:
        self._inner.reset([*self._truth, *context])

    def extend(self, tokens: Tokens) -> None:
        self._inner.extend(tokens)

    def propose(self, round: Round, limit: int) -> Sequence[TokenLike]:
        return self._inner.propose(round, limit)


class Breaking:
    """`model`, but the engine fails at the `at`-th call of `verb`, counted over all rounds."""

    def __init__(self, model: Model, verb: str, at: int) -> None:
        self.tokenizer, self.drafts_with, self.exact_rows = model.tokenizer, model.drafts_with, model.exact_rows
        self.n_caches, self.n_threads, self.note = model.n_caches, model.n_threads, model.note
        self._model = model
        self._verb = verb
        self._left = at

    def new_cache(self, policy: WindowPolicy) -> Cache:
        cache = self._model.new_cache(policy)
        return _Proxy(cache, begin=lambda max_rows: self.broken(cache.begin(max_rows)))

    def run(self, asks: Sequence[Ask]) -> Sequence[Sequence[Row]]:
        opened: list[Any] = [ask.round for ask in asks]
        inner = [replace(ask, round=one.inner) for ask, one in zip(asks, opened, strict=True)]
        return self._maybe("verify", self._model.run)(inner)

    def rest(self) -> None:
        self._model.rest()

    def fail_at(self, at: int) -> None:
        self._left = at

    def close(self) -> None:
        self._model.close()

    def broken(self, round: Round) -> Any:
        return SimpleNamespace(
            inner=round,
            verify=self._maybe("verify", round.verify),
            draft=self._maybe("draft", round.draft),
            commit=self._maybe("commit", round.commit),
            rollback=round.rollback,
        )

    def _maybe(self, verb: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            if verb != self._verb:
                return call(*arguments)
            self._left -= 1
            if verb == "verify" and self._left == 0:
                call(*arguments)  # what the engine wrote before it failed must not stay
            if self._left == 0:
                raise EngineError("the engine gave up")
            return call(*arguments)

        return called


class Piecewise:
    """`model`, with prompts in chunks of `n` rows, which the engine rounds like single rows."""

    def __init__(self, model: Model, n: int) -> None:
        self.tokenizer, self.drafts_with, self.exact_rows = model.tokenizer, model.drafts_with, model.exact_rows
        self.n_caches, self.n_threads, self.note = model.n_caches, model.n_threads, model.note
        self.run, self.rest = model.run, model.rest
        self._model = model
        self._n = n

    def new_cache(self, policy: WindowPolicy) -> Cache:
        cache = self._model.new_cache(policy)
        return _Proxy(cache, chunk_rows=min(self._n, cache.chunk_rows))

    def close(self) -> None:
        self._model.close()


class _Proxy:
    def __init__(self, inner: Any, **replaced: Any) -> None:
        self._inner = inner
        self._replaced = replaced

    def __getattr__(self, name: str) -> Any:
        return self._replaced[name] if name in self._replaced else getattr(self._inner, name)


def rows_of(rows: Sequence[Row]) -> list[Any]:
    return [row.numpy().copy() for row in rows]

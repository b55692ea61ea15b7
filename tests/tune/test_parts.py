"""The parts of teaching, on scripted models with every token and share written out."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="teaching needs torch: `make test` installs it")

from edgeinfer.tune.conversations import ASSISTANT, USER, Conversations, batches, joined, write  # noqa: E402
from edgeinfer.tune.judge import judge, rank_tokens  # noqa: E402
from edgeinfer.tune.openings import openings  # noqa: E402
from edgeinfer.tune.prepare import JUDGED_PROMPTS, Prepared, read_conversations  # noqa: E402
from edgeinfer.tune.teach import _target  # noqa: E402
from edgeinfer.tune.text import first_answers, text_of  # noqa: E402
from edgeinfer.tune.turns import Turns  # noqa: E402
from edgeinfer.tune.work import Sizes, Work  # noqa: E402

END, WORD = 9, 5
TURNS = Turns(opening=(1, 2), to_assistant=(3, 4), to_user=(6,), end=END)


class Scripted:
    """A model that says WORD, and END on every third call."""

    shape = SimpleNamespace(n_layers=1, n_kv_heads=1, head_dim=1)
    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.n_calls = 0

    def step(self, tokens: Any, cache: Any) -> Any:
        self.n_calls += 1
        logits = torch.full((len(tokens), 10), -1e9)
        logits[:, END if self.n_calls % 3 == 0 else WORD] = 0.0
        return logits


def test_a_conversation_follows_the_template() -> None:
    text = write(Scripted(), TURNS, [TURNS.opening], speaker=USER, n_tokens=14, seed=0)
    #                                 user speaks        head   answer       head user     head
    assert text.tokens.tolist() == [[1, 2, WORD, END, 3, 4, END, 6, WORD, END, 3, 4, END, 6]]
    own = [at + 1 for at, is_own in enumerate(text.own[0].tolist()) if is_own]
    assert own == [6, 12]  # the assistant chose these; the template or the user wrote the others


def test_an_answer_follows_a_given_question() -> None:
    question = [1, 2, WORD, END, 3, 4]
    text = write(
        Scripted(), TURNS, [question], speaker=ASSISTANT, n_tokens=10, seed=0, greedy_share=1.0
    )  # fmt: skip
    assert text.tokens.tolist() == [[*question, END, 6, WORD, END]]
    assert text.own[0].tolist() == [False] * 5 + [True] + [False] * 4
    assert text.greedy.tolist() == [True]


def test_every_second_part_answers_given_messages(tmp_path: Path) -> None:
    first = [(1, 2, WORD, END, 3, 4), (1, 2, WORD, WORD, END, 3, 4), (1, 2, 8, END, 3, 4)]
    prepared = Prepared((1.0,), TURNS, tuple(first), (first[0],), None)
    work = Work(Sizes(n_tokens=80, part_rows=2, step_rows=1), 4, {"exit": 1})
    scripted: Any = Scripted()
    text = text_of(tmp_path, scripted, prepared, work, lambda *_: None)
    begins = [tuple(row) for row in text.taught.tokens[:, :7].tolist()]
    assert begins[0][:6] == first[0]  # part 1
    assert begins[1] == first[1]
    assert begins[2][:3] == (1, 2, WORD)  # part 2: the model wrote both sides
    assert begins[4][:6] == first[2]  # part 3 begins where part 1 ended, then starts over
    assert begins[5][:6] == first[0]


def test_given_messages_are_never_evaluation_prompts() -> None:
    judged = {message.content for messages in read_conversations(JUDGED_PROMPTS) for message in messages}
    messages = openings(seed=0)
    assert len(set(messages)) == len(messages) > 4000
    assert judged.isdisjoint(messages)
    assert openings(seed=0) == messages != openings(seed=1)


class Judged:
    """States are one-hot, and `says` gives the model's next token."""

    shape = SimpleNamespace(n_layers=1)
    dtype = torch.float32
    device = torch.device("cpu")
    output = torch.eye(6)

    def __init__(self, says: list[int]) -> None:
        self._says = says

    def states(self, tokens: Any, kept: frozenset[int]) -> dict[int, Any]:
        return {1: one_hot(self._says)}

    def logits(self, states: Any) -> Any:
        return states

    def mixed(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def one_hot(tokens: list[int]) -> Any:
    return torch.nn.functional.one_hot(torch.tensor([tokens]), 6).float()


def drafts(*depths: list[int]) -> Any:
    rows = [one_hot(depth) for depth in depths]
    return SimpleNamespace(kept=frozenset({1}), n_depths=len(depths), rows=lambda states, tokens: rows)


SAYS = [0, 1, 2, 3, 4, 0]
DATA = Conversations(
    torch.zeros((1, 6), dtype=torch.int32), torch.tensor([[False, True, True, True, True, False]]), torch.tensor([True])
)


def test_agreement_by_hand() -> None:
    """Row 2 of the first draft is wrong, so the second draft is judged in rows 2 and 4, and is right in one of them."""
    draft = drafts([0, 1, 5, 3, 4, 0], [0, 1, 2, 3, 0, 0])
    found = judge(Judged(SAYS), draft, DATA, torch.arange(6), head_sizes=[6])
    assert found[0].by_depth == (0.75, 0.5)
    assert found[0].n == 4


def test_a_small_head_guesses_only_its_tokens() -> None:
    draft = drafts(SAYS)
    found = judge(Judged(SAYS), draft, DATA, torch.tensor([4, 3, 1, 2, 0, 5]), head_sizes=[1, 2, 6])
    assert [one.by_depth for one in found] == [(0.25,), (0.5,), (1.0,)]


def test_text_that_is_not_greedy_is_not_judged() -> None:
    sampled = replace(DATA, greedy=torch.tensor([False]))
    found = judge(Judged(SAYS), drafts(SAYS), joined([DATA, sampled]), torch.arange(6), head_sizes=[6])
    assert (found[0].by_depth, found[0].n) == ((1.0,), 4)


def test_only_the_beginning_of_a_first_answer_is_judged() -> None:
    own = torch.zeros((2, 300), dtype=torch.bool)
    own[0, 2:5] = own[0, 9:12] = True  # two answers
    own[1, 2:290] = True  # a model that does not stop
    data = Conversations(torch.zeros((2, 300), dtype=torch.int32), own, torch.tensor([True, True]))
    judged = [row.nonzero().flatten().tolist() for row in first_answers(data).own]
    assert judged == [[2, 3, 4], [*range(2, 130)]]


def test_half_of_what_is_taught_is_the_likeliest_token() -> None:
    model = SimpleNamespace(logits=lambda _: torch.tensor([[[0.6, 0.3, 0.1]]]).log(), dtype=torch.float32)
    assert _target(model, None, torch.tensor([1, 0]))[0, 0].tolist() == pytest.approx([0.15, 0.8])
    assert _target(model, None, torch.tensor([2, 1]))[0, 0].tolist() == pytest.approx([0.05, 0.15])


def test_tokens_are_ranked_by_their_frequency_in_answers() -> None:
    tokens = torch.tensor([[0, 3, 3, 3, 2, 2, 1]], dtype=torch.int32)
    own = torch.tensor([[False, False, False, True, True, False, False]])  # it wrote 2 twice
    assert rank_tokens(Conversations(tokens, own, torch.tensor([True])), 5).tolist() == [2, 3, 1, 0, 4]


def test_batches_take_every_row_once_a_pass() -> None:
    data = Conversations(
        torch.arange(5)[:, None], torch.ones((5, 1), dtype=torch.bool), torch.ones(5, dtype=torch.bool)
    )
    taken = batches(data, 2, seed=3)
    first, second = ([row for _ in range(3) for row in next(taken)[0].flatten().tolist()] for _ in range(2))
    assert sorted(first) == sorted(second) == [0, 1, 2, 3, 4]
    assert first != second

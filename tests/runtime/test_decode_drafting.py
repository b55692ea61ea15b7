"""Prompt lookup, early exit, taught draft and controller of the phone runtime choose as the Python ones do."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count

import numpy as np
import pytest

from edgeinfer.decode.drafters.gated import Gated, GatedEstimator
from edgeinfer.decode.drafters.lookup import MAX_INDEXED, Lookup, LookupEstimator
from edgeinfer.decode.policy.arms import NONE, Arm, Outcome
from edgeinfer.decode.policy.controller import Auto
from edgeinfer.decode.policy.costs import Costs, Part, RowCosts
from edgeinfer.decode.policy.gate import confidence
from edgeinfer.protocols import Round, Row
from edgeinfer.types import Tokens
from tests.runtime.built import COMPILER
from tests.runtime.decode_library import ROOT, CppChoosing, at

pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")

N_VOCAB = 203
MAX_ROWS = 16
LIMIT = 15
DRAFT_S = 0.0009
FIRST_DRAFT_S = 0.0011
COSTS = RowCosts(
    {1: 0.004, 2: 0.0052, 4: 0.0056, 8: 0.0069, 16: 0.011},
    {1: 0.0031, 2: 0.0038, 4: 0.0042, 8: 0.0052},
    {1: 0.0031, 2: 0.0040, 4: 0.0045, 8: 0.0056},
    DRAFT_S,
    FIRST_DRAFT_S,
)


@pytest.fixture
def cpp(library: ctypes.CDLL) -> Iterator[CppChoosing]:
    choosing = CppChoosing(library, COSTS, MAX_ROWS, N_VOCAB, DRAFT_S)
    yield choosing
    choosing.close()


def copied(seed: int, n: int, n_kinds: int) -> list[int]:
    """Random text over few tokens, with passages that repeat earlier ones."""
    random = np.random.default_rng(seed)
    text: list[int] = []
    while len(text) < n:
        if text and random.random() < 0.5:
            start = int(random.integers(len(text)))
            text += text[start : start + int(random.integers(1, 40))]
        else:
            text += random.integers(0, n_kinds, 12).tolist()
    return text[:n]


TEXTS = {
    "random": copied(1, 3000, 180),
    "few kinds": copied(2, 2000, 3),
    "one token": [7] * 600,
    "English": list((ROOT / "README.md").read_bytes()[:4000]),
    "code": list((ROOT / "edgeinfer/decode/loop.py").read_bytes()[:6000]),
    "longer than the index": copied(3, MAX_INDEXED + 5000, 190),
}


def proposed(lookup: Lookup) -> tuple[list[int], list[float]]:
    match = lookup.match()
    if match is None:
        return [], []
    return lookup.tokens(match, LIMIT), lookup.acceptance(match, LIMIT)


@pytest.mark.parametrize("name", TEXTS)
def test_lookup_proposes_the_same_drafts(cpp: CppChoosing, name: str) -> None:
    check_lookup(cpp, TEXTS[name])


def check_lookup(cpp: CppChoosing, text: list[int]) -> None:
    random, lookup = np.random.default_rng(0), Lookup()
    n, n_proposed = len(text) // 3, 0
    for drafter in (lookup, cpp):
        drafter.reset(text[:n])
    while n < len(text):
        emitted = text[n : n + int(random.integers(1, 9))]
        n += len(emitted)
        for drafter in (lookup, cpp):
            drafter.extend(emitted)
        expected = proposed(lookup)
        assert cpp.propose("lookup", LIMIT) == expected[0]
        assert cpp.acceptance(LIMIT) == pytest.approx(expected[1], rel=1e-12)
        n_proposed += bool(expected[0])
    assert n_proposed > 50


def test_lookup_follows_edited_and_new_conversations(cpp: CppChoosing) -> None:
    lookup, first, other = Lookup(), copied(4, 900, 50), copied(5, 700, 50)
    contexts = (first, first[:400], [*first[:700], 3, *first[710:]], other, [*other, *first], first[:1])
    for context in contexts:
        for drafter in (lookup, cpp):
            drafter.reset(context)
            drafter.extend(context[:30])
        expected = proposed(lookup)
        assert cpp.propose("lookup", LIMIT) == expected[0]
        assert cpp.acceptance(LIMIT) == pytest.approx(expected[1], rel=1e-12)


class PreparedRow:
    def __init__(self, logits: np.ndarray) -> None:
        self._logits = logits

    def argmax(self) -> int:
        return int(self._logits.argmax())

    def numpy(self) -> np.ndarray:
        return self._logits


class PreparedSource:
    """Prepared drafts with the interface of `ExitSource`."""

    draft_part: Part = "exit-draft"
    rows: np.ndarray

    def __init__(self, name: str, whole_part: Part, short_part: Part) -> None:
        self.name, self.whole_part, self.short_part = name, whole_part, short_part

    def reset(self, context: Tokens) -> None: ...
    def extend(self, tokens: Tokens) -> None: ...
    def start(self, round: Round) -> None:
        self._at = 0

    def draft(self, token: int) -> Row:
        self._at += 1
        return PreparedRow(self.rows[self._at - 1])


class PyChoosing:
    """Lookup, early exit or taught draft, and controller of one conversation in Python."""

    def __init__(self, agreement: float | None = None) -> None:
        self._costs = Costs(COSTS, MAX_ROWS)
        clock = partial(next, count(step=DRAFT_S))
        is_taught = agreement is not None
        self._source = (
            PreparedSource("feature", "verify", "verify")
            if is_taught
            else PreparedSource("early-exit", "back", "back-short")
        )
        self.lookup = Lookup()
        self.gated = Gated(self._source, self._costs, agreement=agreement, reads_prompt=is_taught, clock=clock)
        estimators = (LookupEstimator(self.lookup, self._costs), GatedEstimator(self.gated, self._costs))
        self.controller = Auto(estimators, self._costs)

    def propose(self, arm: Arm, rows: np.ndarray) -> list[int]:
        self._source.rows = rows
        drafter = self.lookup if arm.name == "lookup" else self.gated
        return [int(draft) for draft in drafter.propose(None, arm.depth)]  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(4))
def test_the_controller_makes_the_same_choices(cpp: CppChoosing, seed: int) -> None:
    check_controller(cpp, seed)


@pytest.mark.parametrize("agreement", [0.3, 0.65, 0.9])
def test_the_controller_chooses_a_taught_draft_alike(library: ctypes.CDLL, agreement: float) -> None:
    cpp = CppChoosing(library, COSTS, MAX_ROWS, N_VOCAB, DRAFT_S, agreement=agreement)
    check_controller(cpp, 0, agreement)
    cpp.close()


def check_controller(cpp: CppChoosing, seed: int, agreement: float | None = None) -> None:
    """An answer of 650 tokens, then one of the rest. The first draft of a taught draft reads the prompt."""
    random, python = np.random.default_rng(seed), PyChoosing(agreement)
    text = copied(seed, 1500, 40 if seed % 2 else 190)
    n, names, is_second, reads_prompt = 200, set(), False, agreement is not None
    for drafter in (python.lookup, python.gated, cpp):
        drafter.reset(text[:n])
    while n < len(text) - LIMIT - 1:
        if n > 850 and not is_second:
            is_second, reads_prompt = True, agreement is not None
            for drafter in (python.lookup, python.gated, cpp):
                drafter.reset(text[:n])
        arm = python.controller.choose(LIMIT)
        assert cpp.choose(LIMIT) == arm
        drafts = drafted(python, cpp, arm, text, n, random) if arm.depth else []
        accepted = next((at for at, draft in enumerate(drafts) if draft != text[n + at]), len(drafts))
        emitted = text[n : n + accepted + 1]
        n += len(emitted)
        noise = float(random.uniform(0.95, 1.2))
        seconds = noise * (0.004 + 0.0004 * len(drafts))
        draft_s = DRAFT_S * len(drafts) if arm.name == python.gated.name else 0.0
        if arm.name == python.gated.name and reads_prompt:
            draft_s, reads_prompt = draft_s + 0.02, False
        outcome = Outcome(len(drafts), accepted, len(emitted), draft_s, seconds)
        for drafter in (python.lookup, python.gated, cpp):
            drafter.extend(emitted)
        python.controller.observe(arm, outcome)
        cpp.observe(arm, outcome)
        assert cpp.plain_s == pytest.approx(python.controller.plain_s, rel=1e-9)
        names.add(arm.name)
    assert names == {NONE.name, "lookup", python.gated.name}


def drafted(
    python: PyChoosing, cpp: CppChoosing, arm: Arm, text: list[int], n: int, random: np.random.Generator
) -> list[int]:
    """The same drafts for both: an early exit that is mostly right, and more often where it is confident."""
    rows = np.zeros((arm.depth, N_VOCAB), np.float32)
    for ahead, row in enumerate(rows):
        sure = float(random.uniform(1, 12))
        right = random.random() < sure / 12
        row[text[n + ahead] if right else int(random.integers(N_VOCAB))] = sure
    drafts = python.propose(arm, rows)
    assert cpp.propose(arm.name, arm.depth, rows.argmax(1).tolist(), rows) == drafts
    return drafts


def test_confidence_is_the_probability_of_the_best_token(library: ctypes.CDLL) -> None:
    library.check_confidence.restype = ctypes.c_double
    for n_vocab in (7, 64, 32_003):
        row = (np.random.default_rng(n_vocab).standard_normal(n_vocab) * 4).astype(np.float32)
        for token in (0, int(row.argmax())):
            found = library.check_confidence(at(row), ctypes.c_int64(n_vocab), ctypes.c_int32(token))
            assert found == pytest.approx(confidence(row, token), rel=1e-5)


MISTAKES = {
    "a shorter chain": ("text_index.cpp", "kMaxChain = 12", "kMaxChain = 2"),
    "forks are forgotten": ("text_index.cpp", "forks_[position] = mark;", "forks_[position] = 0;"),
    "another acceptance rate": ("hit_rates.cpp", "{0.93, 0.83, 0.61}", "{0.93, 0.83, 0.62}"),
    "another rate of costs": ("costs.cpp", "kDriftRate = 0.15", "kDriftRate = 0.14"),
    "another memory of the gate": ("gate.cpp", "kPriorWeight = 4.0", "kPriorWeight = 5.0"),
    "a missed draft is forgotten": ("gated.cpp", "if (!hit) state_ = kMissed;", ""),
    "no look at dropped drafts": ("lookahead.cpp", "dropped.worth(tokens_per_time) ? kept", "-1e9 ? kept"),
    "the first draft is as quick as others": (
        "lookahead.cpp",
        "n ? times.deeper_draft : times.first_draft",
        "times.deeper_draft",
    ),
    "an answer begins with what the last one showed": ("gated.cpp", "gate_.begin_answer();", ""),
    "a plain round too late": ("controller.cpp", "kRecheckMax = 64", "kRecheckMax = 128"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_seeded_mistake_is_found(library_with: Callable[..., ctypes.CDLL], mistake: str) -> None:
    choosing = CppChoosing(library_with(*MISTAKES[mistake]), COSTS, MAX_ROWS, N_VOCAB, DRAFT_S)
    with pytest.raises(AssertionError):
        check_lookup(choosing, TEXTS["few kinds"])
        check_controller(choosing, 0)


MISTAKES_WITH_A_TAUGHT_DRAFT = {
    "another agreement than the file says": ("gate.cpp", "tilted(*agreement)", "tilted(*agreement / 2)"),
    "a draft that reads the prompt is timed": ("gated.cpp", "if (!drafts_.empty() || has_read_prompt())", ""),
    "a round that reads the prompt counts in full": (
        "gated.cpp",
        "gated_.has_read_prompt() ? kMaxRound * expected : expected",
        "kMaxRound * expected",
    ),
    "the early layers are thought to have run": (
        "gated.h",
        "source_.whole_part : source_.short_part",
        "Part::back : Part::back_short",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES_WITH_A_TAUGHT_DRAFT)
def test_a_seeded_mistake_with_a_taught_draft_is_found(library_with: Callable[..., ctypes.CDLL], mistake: str) -> None:
    library = library_with(*MISTAKES_WITH_A_TAUGHT_DRAFT[mistake])
    choosing = CppChoosing(library, COSTS, MAX_ROWS, N_VOCAB, DRAFT_S, agreement=0.65)
    with pytest.raises(AssertionError):
        check_controller(choosing, 0, 0.65)

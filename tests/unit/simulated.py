"""A simulated device and text for controllers: given costs, a simulated clock, and drafters with known guesses."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from edgeinfer.decode.drafters.early_exit import ExitSource
from edgeinfer.decode.drafters.gated import Gated, GatedEstimator
from edgeinfer.decode.drafters.lookup import Lookup, LookupEstimator
from edgeinfer.decode.policy.arms import Arm, Controller, Outcome
from edgeinfer.decode.policy.controller import Auto
from edgeinfer.decode.policy.costs import Costs, RowCosts
from edgeinfer.protocols import Drafter

N_VOCAB = 32
MAX_ROWS = 16


@dataclass(frozen=True)
class Device:
    """Costs in units of one plain round: `row` for each further row, `draft` for one draft by the exit."""

    row: float
    draft: float
    noise: float = 0.05  # standard deviation of the logarithm
    hiccup: int = 0  # one in this many rounds takes ten times as long; 0: none
    unit_s: float = 0.004  # seconds per plain round
    head: float = 0.0  # share of a draft's time that verification repeats

    def verify(self, rows: int) -> float:
        return 1.0 + self.row * (rows - 1)

    def back(self, rows: int, *, short: bool) -> float:
        return max(0.5, self.verify(rows) - (self.draft - self.head) * (rows - short))

    def prior(self, error: float, seed: int) -> RowCosts:
        rng = random.Random(seed)

        def measured(cost: float) -> float:
            return cost * self.unit_s * math.exp(rng.gauss(0, error))

        rows = (1, 2, 4, 8, 16)
        return RowCosts(
            {n: measured(self.verify(n)) for n in rows},
            {n: measured(self.back(n, short=False)) for n in rows},
            {n: measured(self.back(n, short=True)) for n in rows},
            measured(self.draft),
        )


@dataclass(frozen=True)
class Text:
    """Tokens, with the exit's confidence in its guess for each, and whether that guess is right."""

    tokens: tuple[int, ...]
    sure: tuple[float, ...]
    right: tuple[bool, ...]


def a_text(phases: Sequence[tuple[str, int]], seed: int = 1) -> Text:
    """Phases (kind, length): nobody foresees "prose", the exit foresees "mixed" in part and "easy" mostly, "copy"
    repeats what was 60 tokens ago."""
    rng = random.Random(seed)
    tokens, sure, right = [rng.randrange(2000) for _ in range(80)], [0.5] * 80, [False] * 80
    for kind, length in phases:
        for _ in range(length):
            tokens.append(tokens[-60] if kind == "copy" else rng.randrange(2000))
            confident = rng.random() < {"prose": 0.08, "mixed": 0.4, "easy": 0.85, "copy": 0.7}[kind]
            sure.append(rng.uniform(0.95, 1.0) if confident else rng.uniform(0.0, 0.6))
            right.append(rng.random() < sure[-1])
    return Text(tuple(tokens), tuple(sure), tuple(right))


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeRow:
    token: int
    probability: float

    def argmax(self) -> int:
        return self.token

    def numpy(self) -> npt.NDArray[np.float32]:
        rest = math.log(max(1e-9, 1.0 - self.probability) / 2999)
        row = np.full(3000, rest, dtype=np.float32)
        row[self.token] = math.log(max(1e-9, self.probability))
        return row


@dataclass
class FakeRound:
    text: Text
    at: int  # index of the token that the first draft guesses
    device: Device
    clock: Clock
    drafted: int = 0
    on_path: bool = True

    def draft(self, token: int | FakeRow) -> FakeRow:
        token = token if isinstance(token, int) else token.argmax()
        index = min(self.at + self.drafted, len(self.text.tokens) - 1)
        self.on_path = self.on_path and (token == self.text.tokens[index - 1])
        self.drafted += 1
        self.clock.now += self.device.draft * self.device.unit_s
        good = self.on_path and self.text.right[index]
        return FakeRow(self.text.tokens[index] if good else 2999, self.text.sure[index])


@dataclass
class Played:
    seconds: float
    choices: list[Arm] = field(default_factory=list)


def play(text: Text, device: Device, controller: Controller, drafters: dict[str, Drafter], clock: Clock) -> Played:
    """Decode `text` from its 80th token as the loop would, in simulated time."""
    rng = random.Random(7)
    context = list(text.tokens[:80])
    began, played = clock.now, Played(0.0)
    for drafter in drafters.values():
        drafter.reset(context)
    while len(context) < len(text.tokens):
        at, started = len(context), clock.now
        arm = controller.choose(min(MAX_ROWS, len(text.tokens) - at) - 1)
        played.choices.append(arm)
        step = FakeRound(text, at, device, clock)
        proposed = drafters[arm.name].propose(step, arm.depth) if arm.depth else []  # type: ignore[arg-type]
        drafts = [draft if isinstance(draft, int) else draft.argmax() for draft in proposed]
        drafted_at = clock.now
        rows = len(drafts) + 1
        cost = device.back(rows, short=step.drafted < rows) if step.drafted else device.verify(rows)
        slow = 10.0 if device.hiccup and len(played.choices) % device.hiccup == 0 else 1.0
        clock.now += cost * device.unit_s * slow * math.exp(rng.gauss(0, device.noise))
        truth = text.tokens[at : at + rows]
        accepted = next((i for i, draft in enumerate(drafts) if i >= len(truth) or draft != truth[i]), len(drafts))
        emitted = list(truth[: accepted + 1])
        context += emitted
        for drafter in drafters.values():
            drafter.extend(emitted)
        controller.observe(
            arm, Outcome(len(drafts), accepted, len(emitted), drafted_at - started, clock.now - drafted_at)
        )
    played.seconds = clock.now - began
    return played


def auto(
    device: Device,
    clock: Clock,
    *,
    drafters: Sequence[str] = ("lookup", "early-exit"),
    error: float = 0.1,
    seed: int = 3,
    plain_error: float = 1.0,
) -> tuple[Auto, dict[str, Drafter]]:
    prior = device.prior(error, seed)
    costs = Costs(replace(prior, verify_s={**prior.verify_s, 1: prior.verify_s[1] * plain_error}), MAX_ROWS)
    lookup, gated = Lookup(), Gated(ExitSource(), costs, clock=clock)
    estimators: dict[str, Callable[[], object]] = {
        "lookup": lambda: LookupEstimator(lookup, costs),
        "early-exit": lambda: GatedEstimator(gated, costs),
    }
    made = [estimators[name]() for name in drafters]
    return Auto(made, costs), {"lookup": lookup, "early-exit": gated}  # type: ignore[arg-type]

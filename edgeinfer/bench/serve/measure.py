"""The workloads on both servers in turn; which comes first alternates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Final, Generic, TypeVar

from edgeinfer.bench.serve.servers import Server
from edgeinfer.bench.serve.workloads import QUESTION, Load, load, longest_gap, repeated_system, second_turn, text_of
from edgeinfer.runner.model import LoadedModel
from edgeinfer.types import GREEDY

SEEDS: Final = 100  # of a run: each of its workloads has another, so that no prompt is in a cache

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pairs(Generic[T]):
    """The result of each run; `theirs` is empty without another server."""

    ours: list[T] = field(default_factory=list)
    theirs: list[T] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of the workloads: answers in tokens, prompts in words."""

    n_tokens: int
    arriving_words: int
    chat_words: int
    system_words: int
    n_slots: int


@dataclass(frozen=True, slots=True)
class Subjects:
    """What is measured, opened. `sides` are ours, and the other server where there is one."""

    sides: Sequence[Server]
    single: Server  # ours, for one conversation
    chat: LoadedModel


@dataclass(frozen=True, slots=True)
class Measured:
    loads: Mapping[int, Pairs[Load]]  # by the number of clients
    gaps: Pairs[float]
    second_turns: Pairs[float]
    systems: Pairs[float]
    alone: Pairs[float]  # tokens/s after the first: a server of one conversation, and `edgeinfer chat`


def measure(
    subjects: Subjects,
    clients: Sequence[int],
    sizes: Sizes,
    runs: int,
    say: Callable[[str], None],
) -> Measured:
    """Every workload, `runs` times."""
    sides = subjects.sides
    found = Measured({n: Pairs() for n in clients}, Pairs(), Pairs(), Pairs(), Pairs())
    for server in sides:
        load(server, n_clients=max(clients), n_tokens=8, seed=-1)  # touches the weights, and every slot
    load(subjects.single, n_clients=1, n_tokens=8, seed=-1)
    for run in range(runs):
        say(f"run {run + 1} of {runs}")
        both = partial(paired, sides, list(sides) if run % 2 == 0 else list(reversed(sides)))
        seeds = count(SEEDS * run)
        for n, pairs in found.loads.items():
            both(pairs, partial(load, n_clients=n, n_tokens=sizes.n_tokens, seed=next(seeds)))
        seed = next(seeds)
        single = load(subjects.single, n_clients=1, n_tokens=sizes.n_tokens, seed=seed)
        found.alone.ours.append(single.tokens_per_s_after_first)
        found.alone.theirs.append(chat_speed(subjects.chat, sizes.n_tokens, seed))
        if max(clients) > 2:
            both(found.gaps, partial(longest_gap, n_words=sizes.arriving_words, seed=next(seeds)))
        both(found.second_turns, partial(second_turn, n_words=sizes.chat_words, seed=next(seeds)))
        last = partial(repeated_system, n_words=sizes.system_words, n_slots=sizes.n_slots, seed=next(seeds))
        both(found.systems, last)
    return found


def paired(sides: Sequence[Server], order: Sequence[Server], pairs: Pairs[T], workload: Callable[[Server], T]) -> None:
    for server in order:
        (pairs.ours if server is sides[0] else pairs.theirs).append(workload(server))


def chat_speed(chat: LoadedModel, n_tokens: int, seed: int) -> float:
    """Tokens/s after the first token, in this process, for the prompt that the one client sends in run `seed`."""
    endless = replace(GREEDY, logit_bias=tuple((token, -100.0) for token in chat.tokenizer.stop_tokens))
    answer = chat.stream(f"{text_of(40, 1000 * seed)}. {QUESTION}", max_tokens=n_tokens, sampling=endless).finish()
    return answer.stats.tokens_per_s


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

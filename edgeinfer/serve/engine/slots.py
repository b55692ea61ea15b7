"""The conversations that a server keeps open, and which of them comes next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from edgeinfer.decode.loop import Decoder
from edgeinfer.protocols import Cache
from edgeinfer.serve.engine.job import Job
from edgeinfer.types import Prompt, Tokens, common_prefix

SAME_CHAT: Final = 0.5  # a prompt that shares this much of a conversation continues it
PATIENCE: Final = 8  # steps that a prompt lets shorter ones go first


@dataclass(slots=True)
class Slot:
    """A decoder with its cache. It rests between two jobs, and keeps what it has run."""

    decoder: Decoder
    job: Job | None = None
    last_used: int = 0  # number of the step; 0: never
    broken: bool = False  # its cache cannot be emptied, so the slot is no longer used
    unkept: bool = False  # its conversation has ended, and `Prefixes.keep` has not seen it


@dataclass(frozen=True, slots=True)
class PrefixFigures:
    """What the prefix cache holds, and what it has done since the server started."""

    memory_bytes: int = 0
    memory_blocks: int = 0
    disk_bytes: int = 0
    disk_blocks: int = 0
    restored_tokens: int = 0
    evicted_blocks: int = 0  # from memory
    thrashed_tokens: int = 0  # run again although they had been kept, because they were evicted
    unwritten_blocks: int = 0  # that the disk was too slow for, or could not store


class Prefixes(Protocol):
    """Beginnings of prompts whose keys and values are kept outside the caches."""

    def restore(self, cache: Cache, tokens: Tokens, n_held: int) -> int:
        """Fill `cache` with the longest kept beginning of `tokens`; how many tokens that is.

        0, and the cache unchanged, where hardly more is kept than the `n_held` tokens that it holds already.
        """
        ...

    def keep(self, cache: Cache, tokens: Tokens) -> None:
        """`cache` holds `tokens` from position 0 on, as far as they have not left its window: keep whole blocks."""
        ...

    @property
    def keeps(self) -> bool:
        """Whether a conversation that has ended can be restored, so that its cache may go to another one."""
        ...

    @property
    def figures(self) -> PrefixFigures: ...
    def close(self) -> None:
        """Wait for what is being written."""
        ...


class NoPrefixes:
    """Keeps nothing."""

    keeps = False
    figures = PrefixFigures()

    def restore(self, cache: Cache, tokens: Tokens, n_held: int) -> int:
        del cache, tokens, n_held
        return 0

    def keep(self, cache: Cache, tokens: Tokens) -> None:
        del cache, tokens

    def close(self) -> None:
        pass


def choose_slot(slots: Sequence[Slot], prompt: Prompt, *, kept: bool = False) -> Slot | None:
    """The resting slot for `prompt`; None when all are taken.

    The conversation that the prompt continues, if one is there. Else the one that was not used for the longest time: a
    prompt that only begins like a chat, as a request for its title does, must not take the chat's place. Where
    conversations are `kept` outside the caches, a slot next to those that run comes before it: engines run neighbors
    in one forward, and others one after the other.
    """
    resting = [slot for slot in slots if slot.job is None and not slot.broken]
    if not resting:
        return None
    shared = {id(slot): common_prefix(slot.decoder.tokens, prompt.tokens) for slot in resting}
    best = max(resting, key=lambda slot: shared[id(slot)])
    n_tokens = len(best.decoder.tokens)
    if n_tokens and shared[id(best)] >= SAME_CHAT * n_tokens and shared[id(best)] > prompt.n_system:
        return best
    beside = running_neighbors(slots) if kept else {}
    return min(resting, key=lambda slot: (-beside.get(id(slot), 0), slot.last_used))


def running_neighbors(slots: Sequence[Slot]) -> dict[int, int]:
    """How many of the two slots next to each one run, by the id of the slot."""
    runs = [False, *(slot.job is not None for slot in slots), False]
    return {id(slot): runs[at] + runs[at + 2] for at, slot in enumerate(slots)}


def by_turn(reading: Sequence[Slot]) -> list[Slot]:
    """The shortest rest of a prompt first, but before it those that have been passed too often."""

    def order(slot: Slot) -> tuple[bool, int]:
        patient = slot.job is None or slot.job.n_passed < PATIENCE
        return patient, slot.decoder.n_waiting

    return sorted(reading, key=order)

"""The K/V memory of the conversations that a plan counts: allocated with the model, and used again when one closes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from edgeinfer.window import WindowPolicy

__all__ = ["PlannedCaches", "Reserve"]

Rings = TypeVar("Rings")


@dataclass(frozen=True, slots=True)
class PlannedCaches:
    """`n` conversations under `policy`."""

    n: int
    policy: WindowPolicy


class Reserve(Generic[Rings]):
    """Rings for the planned conversations. Others, as for a measurement under another policy, allocate their own."""

    def __init__(self, planned: PlannedCaches | None, new: Callable[[WindowPolicy], Rings]) -> None:
        self._planned = planned
        self._new = new
        self._free = [new(planned.policy) for _ in range(planned.n)] if planned is not None else []

    def take(self, policy: WindowPolicy) -> Rings:
        if self._free and self._planned is not None and policy == self._planned.policy:
            return self._free.pop()
        return self._new(policy)

    def give_back(self, policy: WindowPolicy, rings: Rings) -> None:
        """Keep the rings for the next conversation, if they belong to the planned ones."""
        if self._planned is not None and policy == self._planned.policy and len(self._free) < self._planned.n:
            self._free.append(rings)

"""The models that a server has opened, by the names under which requests ask for them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from edgeinfer.errors import ModelNotFoundError
from edgeinfer.serve.served import ServedModel

__all__ = ["Models"]


class Models:
    def __init__(self, served: Sequence[ServedModel]) -> None:
        self._by_name = {one.name: one for one in served}

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._by_name.values())

    def find(self, name: str) -> ServedModel:
        """`name` may end in `:latest`, as Ollama's clients write it. Raises ModelNotFoundError with near names."""
        found = self._by_name.get(name.removesuffix(":latest"))
        if found is None:
            near = difflib.get_close_matches(name, self._by_name, n=3) or list(self._by_name)
            served = ", ".join(f"`{one}`" for one in near)
            raise ModelNotFoundError(f"the model `{name[:100]}` is not served here", hint=f"this server has {served}")
        return found

    @property
    def stalled(self) -> str:
        return next((why for one in self if (why := one.scheduler.stalled)), "")

    def end_answers(self) -> None:
        """Fail every answer that runs or waits, and accept no more."""
        for one in self:
            one.scheduler.close()

    def close(self) -> None:
        for one in self:
            one.close()

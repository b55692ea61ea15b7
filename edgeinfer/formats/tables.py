"""TOML files read key by key: a wrong type, a missing key and an unknown key are each one clear line."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from edgeinfer.errors import UsageError
from edgeinfer.named_files import read_text

__all__ = ["Table", "read_toml"]

MAX_TOML_BYTES = 16 << 20
T = TypeVar("T")


class Table:
    """One table of a TOML file. `where` names it in messages. Read every key, then `done()`."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self._data = data
        self._left = set(data)
        self.where = where

    def __contains__(self, key: str) -> bool:
        return key in self._data

    def _take(self, key: str, kind: type[T], what: str, default: T | None) -> T:
        self._left.discard(key)
        value = self._data.get(key, default)
        if value is None:
            raise UsageError(f"{self.where}: `{key}` is missing; expected {what}")
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise UsageError(f"{self.where}: `{key}` must be {what}; received {value!r}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        return self._take(key, str, "a text", default)

    def flag(self, key: str, default: bool | None = None) -> bool:
        return self._take(key, bool, "true or false", default)

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._take(key, int, "a whole number >= 0", default)
        if not 0 <= value < 2**63:
            raise UsageError(f"{self.where}: `{key}` must be a whole number >= 0; received {value}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        if isinstance(self._data.get(key), int):
            return float(self.integer(key))
        value = self._take(key, float, "a number >= 0", default)
        if not 0 <= value < 1e30:  # also refuses nan
            raise UsageError(f"{self.where}: `{key}` must be a number >= 0; received {value}")
        return value

    def texts(self, key: str, default: list[str] | None = None) -> list[str]:
        values = self._take(key, list, "a list of texts", default)
        if not all(isinstance(value, str) for value in values):
            raise UsageError(f"{self.where}: `{key}` must be a list of texts; received {values!r}")
        return values

    def all_texts(self) -> dict[str, str]:
        """Every key of this table, each a text."""
        return {key: self.text(key) for key in self._data}

    def all_numbers(self) -> dict[str, float]:
        """Every key of this table, each a number >= 0."""
        return {key: self.number(key) for key in self._data}

    def integers(self, key: str, default: list[int] | None = None) -> list[int]:
        values = self._take(key, list, "a list of whole numbers", default)
        if not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
            raise UsageError(f"{self.where}: `{key}` must be a list of whole numbers; received {values!r}")
        return values

    def numbers(self, key: str) -> list[float]:
        """Finite numbers of any sign."""
        values = self._take(key, list, "a list of numbers", None)
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            raise UsageError(f"{self.where}: `{key}` must be a list of numbers; received {values!r}")
        if not all(abs(value) < 1e30 for value in values):  # also refuses nan
            raise UsageError(f"{self.where}: `{key}` must be a list of finite numbers; received {values!r}")
        return [float(value) for value in values]

    def table(self, key: str) -> Table:
        return Table(self._take(key, dict, "a table", None), f"{self.where}, {key}")

    def nullable(self, key: str) -> Table | None:
        """The table under `key`, or None where null stands for it."""
        if key in self._data and self._data[key] is None:
            self._left.discard(key)
            return None
        return self.table(key)

    def tables(self, key: str) -> list[Table]:
        """The tables of an array, or none where the key is absent."""
        values = self._take(key, list, "an array of tables", [])
        if not all(isinstance(value, dict) for value in values):
            raise UsageError(f"{self.where}: `{key}` must be an array of tables")
        return [Table(value, f"{self.where}, {key} {index + 1}") for index, value in enumerate(values)]

    def named(self, key: str) -> dict[str, Table]:
        """The tables under `key`, by their names; none where the key is absent."""
        self._left.discard(key)
        if key not in self._data:
            return {}
        inner = self.table(key)
        return {name: inner.table(name) for name in inner._data}

    def all_named(self, key: str) -> dict[str, Table]:
        """As `named`, where the key must be there."""
        inner = self.table(key)
        return {name: inner.table(name) for name in inner._data}

    def done(self) -> None:
        """Raises UsageError when a key was not read: a misspelled key must not be dropped in silence."""
        if self._left:
            raise UsageError(f"{self.where}: unknown key `{sorted(self._left)[0]}`")


def read_toml(path: Path) -> Table:
    """The whole file as a table. Raises UsageError when it is missing, not UTF-8 or not TOML."""
    try:
        return Table(tomllib.loads(read_text(path, title=str(path), most_bytes=MAX_TOML_BYTES)), path.name)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}", hint="correct the file or move it away") from error

"""Where edgeinfer keeps files: the XDG base directories. Each is None on a machine without a home folder."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder", "chats_folder", "config_folder", "home", "state_folder", "user_cache"]

_PROGRAM = "edgeinfer"


def home() -> Path | None:
    """None where neither HOME nor the password database names a folder, as in some containers."""
    try:
        folder = Path.home()
    except (RuntimeError, KeyError):
        return None
    return folder if folder.is_absolute() else None


def user_cache() -> Path | None:
    """The folder above every program's cache."""
    return _base("XDG_CACHE_HOME", ".cache")


def cache_folder() -> Path | None:
    """Results that may be deleted at any time: measured bandwidth, costs of rounds, self-tests."""
    return _of_program(user_cache())


def config_folder() -> Path | None:
    """The user's own `models.toml` and `devices.toml`."""
    return _of_program(_base("XDG_CONFIG_HOME", ".config"))


def state_folder() -> Path | None:
    """The history of the line editor, and the running chats."""
    return _of_program(_base("XDG_STATE_HOME", ".local/state"))


def chats_folder() -> Path | None:
    """The chats that are running, and those that were cut off."""
    folder = state_folder()
    return folder / "chats" if folder else None


def _base(variable: str, default: str) -> Path | None:
    named = Path(os.environ.get(variable, ""))
    if named.is_absolute():  # the XDG specification ignores relative paths
        return named
    folder = home()
    return folder / default if folder else None


def _of_program(base: Path | None) -> Path | None:
    return base / _PROGRAM if base else None

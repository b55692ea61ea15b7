"""Model files by name: finds them in the Hugging Face cache, and downloads them into it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeinfer.hub.cache import Installed, cache_dir, installed, is_offline, known_digest, locate, remove, verify
    from edgeinfer.hub.choose import choose_file, folder_files, tiers
    from edgeinfer.hub.file_names import is_of_tier
    from edgeinfer.hub.names import ModelName, parse_name
    from edgeinfer.hub.packages import (
        PackagedFile,
        installed_packages,
        locate_packaged,
        pull_packaged,
        remove_package,
    )
    from edgeinfer.hub.remote import RemoteFile, RemoteRepo, look_up, remote_header
    from edgeinfer.hub.transfer import pull

__all__ = [
    "Installed",
    "ModelName",
    "PackagedFile",
    "RemoteFile",
    "RemoteRepo",
    "cache_dir",
    "choose_file",
    "folder_files",
    "installed",
    "installed_packages",
    "is_of_tier",
    "is_offline",
    "known_digest",
    "locate",
    "locate_packaged",
    "look_up",
    "parse_name",
    "pull",
    "pull_packaged",
    "remote_header",
    "remove",
    "remove_package",
    "tiers",
    "verify",
]

_HOMES = {
    **dict.fromkeys(("Installed", "cache_dir", "installed", "is_offline", "known_digest"), "cache"),
    **dict.fromkeys(("locate", "remove", "verify"), "cache"),
    **dict.fromkeys(("choose_file", "folder_files", "tiers"), "choose"),
    "is_of_tier": "file_names",
    **dict.fromkeys(("ModelName", "parse_name"), "names"),
    **dict.fromkeys(("PackagedFile", "installed_packages", "locate_packaged"), "packages"),
    **dict.fromkeys(("pull_packaged", "remove_package"), "packages"),
    **dict.fromkeys(("RemoteFile", "RemoteRepo", "look_up", "remote_header"), "remote"),
    "pull": "transfer",
}


def __getattr__(name: str) -> object:
    """Import at first use: reading the cache does not load the network code."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

"""What a person may call a model: a catalogue name, `org/repo`, either with `:TIER`, a `.gguf` file or a folder."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeinfer.errors import ArtifactBad, ModelNotFound, UsageError
from edgeinfer.formats.paths import is_pickle_name

__all__ = ["ModelName", "check_repo", "near", "parse_name"]

_SEGMENT = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_REPO = re.compile(rf"({_SEGMENT})/({_SEGMENT})")
_TIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_CATALOG = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")


@dataclass(frozen=True, slots=True)
class ModelName:
    """`name` is a catalogue name or `org/repo`; `path` is for the local kinds; `tier` is "" where none is named."""

    kind: Literal["catalog", "repo", "file", "folder"]
    name: str = ""
    tier: str = ""
    path: Path | None = None


def parse_name(text: str, catalog: Collection[str] = (), *, listed_by: str = "edgeinfer list --catalog") -> ModelName:
    """What `text` names. Touches the disk only to see whether a path is there, and never the network.

    `listed_by` is the command that a hint names. Raises ModelNotFound with near names when `text` is no repository, no
    path and not in `catalog` (an empty `catalog` accepts every well-formed name), UsageError for an ill-formed name,
    ArtifactBad for a pickle.
    """
    text = text.strip()
    if not text or not text.isprintable():
        raise UsageError(f"not a model name: {text[:60]!r}", hint=f"`{listed_by}` shows names")
    if local := _local(text):
        return local
    name, colon, tier = text.partition(":")
    if colon and not _TIER.fullmatch(tier):
        raise UsageError(f"not a tier: {tier[:60]!r} in {text[:120]!r}", hint="write org/repo:Q4_K_M")
    if "/" in name:
        return ModelName("repo", name=check_repo(name), tier=tier)
    slug = re.sub(r"[\s_]+", "-", name.lower())
    if _CATALOG.fullmatch(slug) and (slug in catalog or not catalog):
        return ModelName("catalog", name=slug, tier=tier)
    raise ModelNotFound(f"no model is called {name[:60]!r}", hint=near(slug, catalog) or f"`{listed_by}` shows names")


def check_repo(repo: str) -> str:
    """`repo` when it is `org/name` as the hub allows it. Raises UsageError."""
    if not _REPO.fullmatch(repo) or "--" in repo or ".." in repo:
        raise UsageError(f"not a repository: {repo[:120]!r}", hint="write org/name, as on the hub")
    return repo


def near(name: str, names: Collection[str]) -> str:
    """A hint with up to three names that look like `name`; "" when none does."""
    found = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(found)}?" if found else ""


def _local(text: str) -> ModelName | None:
    """`text` as a path, when it is written like one, ends in .gguf, or has a slash and is a model folder here."""
    path = Path(text).expanduser()
    written = text.startswith(("./", "../", "~", ".\\", "..\\")) or text in (".", "..") or path.is_absolute()
    if path.is_dir() and (written or ("/" in text and (path / "config.json").is_file())):
        return ModelName("folder", path=path)
    if is_pickle_name(path.name) and (written or path.is_file()):
        raise ArtifactBad(
            f"{path} is refused: {path.suffix} files are pickles", hint="choose a .gguf or .safetensors file"
        )
    is_gguf = path.suffix.lower() == ".gguf"
    if path.is_file() and (written or is_gguf):
        return ModelName("file", path=path)
    if written or is_gguf:
        names = [entry.name for entry in path.parent.glob("*.gguf")] if path.parent.is_dir() else []
        raise ModelNotFound(f"{path} does not exist", hint=near(path.name, names) or "check the path")
    return None

"""The forms of a model's name: a catalog name or `org/repo`, each with `:TIER`; a file; a folder; an address."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeinfer.errors import ArtifactError, ModelNotFoundError, UsageError
from edgeinfer.formats.paths import is_pickle_name
from edgeinfer.hub.addresses import Address, read_address
from edgeinfer.hub.file_names import is_first_part, is_model

__all__ = ["ModelName", "check_repo", "near", "parse_name"]

_SEGMENT = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_REPO = re.compile(rf"({_SEGMENT})/({_SEGMENT})")
_REPO_FILE = re.compile(rf"({_SEGMENT}/{_SEGMENT})/(.+\.gguf)", re.IGNORECASE)
_TIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_CATALOG = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
# The tags of Ollama's library: a size, a kind, a quantization, such as `1b-instruct-q4_K_M`.
_TAG = re.compile(r"(?P<size>[a-z0-9.]+?)?(?:-?(?:instruct|it|chat|text))?(?:-?(?P<tier>i?q\d\w*|[bf]p?16|f?32))?")
_TAG_TIERS = {"FP16": "F16", "BP16": "BF16"}


@dataclass(frozen=True, slots=True)
class ModelName:
    """`name` is a catalog name or `org/repo`; `path` is for the local kinds; `tier` is "" where none is named.

    `file` is one file of the repository, where the name or address says which.
    """

    kind: Literal["catalog", "repo", "file", "folder"]
    name: str = ""
    tier: str = ""
    path: Path | None = None
    file: str = ""


def parse_name(text: str, catalog: Collection[str] = (), *, listed_by: str = "edgeinfer list --catalog") -> ModelName:
    """What `text` names. A path is tried first; the network is never used.

    `listed_by` is the command that a hint names. Raises ModelNotFoundError with near names when `text` is no repository
    and no path and not in `catalog` (an empty `catalog` accepts every well-formed name), UsageError for an ill-formed
    name, ArtifactError for a pickle.
    """
    if local := _local(text, catalog) or _local(text.strip(), catalog):
        return local
    text = text.strip()
    if not text or not text.isprintable():
        raise UsageError(f"not a model name: {text[:60]!r}", hint=f"`{listed_by}` shows names")
    address = read_address(text)
    if address and address.path is not None:
        return _local(str(address.path), catalog) or ModelName("file", path=address.path)
    if address and address.library:
        if found := _of_library(address.library, catalog):
            return found
        raise ModelNotFoundError(
            f"{address.library} of Ollama's library has no counterpart in the catalog",
            hint=near(address.library.partition(":")[0], catalog) or f"`{listed_by}` shows names",
        )
    if match := _REPO_FILE.fullmatch(text):
        address = address or Address(repo=match[1], file=match[2])
    if address:
        return ModelName("repo", check_repo(address.repo), _checked_tier(address.tier, text), file=address.file)
    return _name(text, catalog, listed_by)


def _name(text: str, catalog: Collection[str], listed_by: str) -> ModelName:
    name, colon, tier = text.partition(":")
    if colon and "/" not in name and (found := _of_library(text, catalog)):
        return found
    if colon and not tier:
        raise _no_tier(tier, text)
    tier = _checked_tier(tier, text)
    if "/" in name:
        return ModelName("repo", name=check_repo(name), tier=tier)
    slug = re.sub(r"[\s_]+", "-", name.lower())
    if _CATALOG.fullmatch(slug) and (slug in catalog or not catalog):
        return ModelName("catalog", name=slug, tier=tier)
    raise ModelNotFoundError(
        f"no model is called {name[:60]!r}", hint=near(slug, catalog) or f"`{listed_by}` shows names"
    )


def _checked_tier(tier: str, text: str) -> str:
    if tier and not _TIER.fullmatch(tier):
        raise _no_tier(tier, text)
    return tier


def _no_tier(tier: str, text: str) -> UsageError:
    return UsageError(f"not a tier: {tier[:60]!r} in {text[:120]!r}", hint="write org/repo:Q4_K_M")


def _of_library(text: str, catalog: Collection[str]) -> ModelName | None:
    """The catalog's model for a name as Ollama writes it: `llama3.2:1b` is llama-3.2-1b."""
    name, _, tag = text.lower().partition(":")
    match = _TAG.fullmatch("" if tag == "latest" else tag)
    if match is None:
        return None
    wanted = _squeezed(f"{name}{match['size'] or ''}")
    found = [known for known in catalog if _squeezed(known) == wanted]
    tier = (match["tier"] or "").upper()
    return ModelName("catalog", found[0], _TAG_TIERS.get(tier, tier)) if len(found) == 1 else None


def _squeezed(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name)


def check_repo(repo: str) -> str:
    """`repo` when it is `org/name` as the hub allows it. Raises UsageError."""
    if not _REPO.fullmatch(repo) or "--" in repo or ".." in repo:
        raise UsageError(f"not a repository: {repo[:120]!r}", hint="write org/name, as on the hub")
    return repo


def near(name: str, names: Collection[str]) -> str:
    """A hint with up to three names that look like `name`; "" when none does."""
    found = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(found)}?" if found else ""


def _local(text: str, catalog: Collection[str]) -> ModelName | None:
    """`text` as a path, if it exists or is written like a path. Catalog names take precedence."""
    try:
        path = Path(text)
        path = path if os.path.lexists(path) else path.expanduser()
        is_dir, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError):  # too long, no home, a NUL
        return None
    written = text.startswith(("./", "../", "~", ".\\", "..\\")) or text in (".", "..") or path.is_absolute()
    if not written and (not text or text.lower() in catalog):
        return None
    if is_pickle_name(path.name) and (written or is_file):
        raise ArtifactError(
            f"{path} is refused: {path.suffix} files are pickles", hint="choose a .gguf or .safetensors file"
        )
    if is_dir and (inside := _in_folder(path, must=written)):
        return inside
    if is_file:
        return ModelName("file", path=path)
    if not is_dir and path.exists():
        raise ArtifactError(f"{path} is a pipe or device, not a file", hint="write it to a file first")
    remote = "://" in text or (_REPO_FILE.fullmatch(text) and not Path(path.parts[0]).is_dir())
    if written or (path.suffix.lower() == ".gguf" and not remote):
        if path.is_symlink():
            raise ModelNotFoundError(f"{path} is a link that leads nowhere", hint="`ls -l` shows where it points")
        names = [entry.name for entry in path.parent.glob("*.gguf")] if path.parent.is_dir() else []
        raise ModelNotFoundError(f"{path} does not exist", hint=near(path.name, names) or "check the path")
    return None


def _in_folder(path: Path, *, must: bool) -> ModelName | None:
    """The model in a folder: its one .gguf, or the folder itself. None if it holds none and none is required."""
    if (path / "config.json").is_file() and any(path.glob("*.safetensors")):
        return ModelName("folder", path=path)
    ggufs = sorted(file for file in path.glob("*.[gG][gG][uU][fF]") if file.is_file())
    models = [file for file in ggufs if is_model(file.name) and is_first_part(file.name)] or ggufs
    if len(models) == 1:
        return ModelName("file", path=models[0])
    if models and must:
        names = ", ".join(file.name for file in models[:8])
        raise ModelNotFoundError(f"{path} holds {len(models)} .gguf files", hint=f"name one: {names}")
    return ModelName("folder", path=path) if must or (path / "config.json").is_file() else None

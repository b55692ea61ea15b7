"""Addresses that people paste: the hub's pages, `hf.co/...`, `file://`, and the names of Ollama's library."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from edgeinfer.errors import UsageError

__all__ = ["Address", "read_address"]

_HUBS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co", "hf-mirror.com"})
_LIBRARIES = frozenset({"ollama.com", "www.ollama.com", "ollama.ai", "registry.ollama.ai"})
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|file:")


@dataclass(frozen=True, slots=True)
class Address:
    """One of: `repo` (with the `tier` or `file` that the address names), `path`, or `library` ("qwen3:4b")."""

    repo: str = ""
    tier: str = ""
    file: str = ""
    path: Path | None = None
    library: str = ""


def read_address(text: str) -> Address | None:
    """What the address `text` names; None if it is not an address. Raises UsageError for an address of something that
    cannot be loaded."""
    if _SCHEME.match(text):
        parts = urlsplit(text)
        scheme, host, path = parts.scheme.lower(), (parts.hostname or "").lower(), parts.path
        if scheme == "file":
            return Address(path=Path(url2pathname(path)))
        if scheme in ("hf", "ollama"):
            host, path = {"hf": "hf.co", "ollama": "ollama.com"}[scheme], f"/{parts.netloc}{path}"
    else:
        host, slash, path = text.partition("/")
        host, path = host.lower(), f"/{path}"
        if not slash or host not in (*_HUBS, *_LIBRARIES, "library"):
            return None
    if host in _LIBRARIES or host == "library":
        return Address(library=unquote(path).strip("/").removeprefix("library/"))
    if host in _HUBS or host == urlsplit(os.environ.get("HF_ENDPOINT", "")).hostname:
        return _of_hub(unquote(path), text)
    raise UsageError(
        f"models are not loaded from {host or text[:60]!r}",
        hint="download the file yourself and name its path, or name a repository of the hub: org/repo",
    )


def _of_hub(path: str, text: str) -> Address:
    """`/org/repo`, with `:TIER`, `/tree/REVISION`, `/blob/REVISION/FILE` or `/resolve/REVISION/FILE` after it."""
    parts = [part for part in path.split("/") if part]
    if parts[:1] == ["models"]:
        parts = parts[1:]
    if len(parts) < 2 or parts[0] in ("datasets", "spaces", "collections", "docs"):
        raise UsageError(f"not the address of a model: {text[:120]!r}", hint="write org/repo, as on the hub")
    name, _, tier = parts[1].partition(":")
    repo, rest = f"{parts[0]}/{name}", parts[2:]
    if rest[:1] in (["tree"], ["blob"], ["resolve"], ["raw"]):
        if rest[1:2] not in ([], ["main"]):
            raise UsageError(
                f"only the newest state of a repository is read, not {rest[1][:60]!r}", hint=f"write {repo}"
            )
        rest = rest[2:]
    file = "/".join(rest)
    if file and not file.lower().endswith(".gguf"):
        raise UsageError(f"{file[:80]!r} of {repo} is not a .gguf file", hint=f"write {repo} or {repo}:Q4_K_M")
    return Address(repo=repo, tier=tier, file=file)

"""The user's `models.toml`: `models add` appends one entry, all or nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from edgeinfer.catalog.catalog import load_catalog
from edgeinfer.catalog.entry import Artifact, ModelEntry, ModelShape
from edgeinfer.errors import UsageError
from edgeinfer.kept import write_whole
from edgeinfer.types import Sampling

__all__ = ["append_user_entry"]

_UNWRITABLE = "XDG_CONFIG_HOME names the folder above it"
_NO_HOME = "set XDG_CONFIG_HOME or HOME"


def append_user_entry(entry: ModelEntry, path: Path | None) -> Path:
    """Append `entry` to the file at `path`, which is created if it is missing. What it holds is not changed.

    The new file is read back before it takes the old one's place. Returns the path. Raises UsageError when there is no
    folder for it, the name is taken, or the file cannot be written.
    """
    if path is None:
        raise UsageError("there is no folder for a models.toml of your own", hint=_NO_HOME)
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    text = old + ("\n" if old and not old.endswith("\n") else "") + "\n".join(_lines(entry)) + "\n"
    if old and f"name = {_quote(entry.name)}\n" in old:
        raise UsageError(f"{path} already has a model {entry.name}", hint=f"remove that entry from {path} first")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text, check=load_catalog)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", hint=_UNWRITABLE) from error
    return path


def _quote(text: str) -> str:
    """A TOML basic string: a JSON string, but for characters that JSON writes as two and one that it leaves."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _lines(entry: ModelEntry) -> Iterator[str]:
    yield from ("", "[[model]]", f"name = {_quote(entry.name)}", f"title = {_quote(entry.title)}")
    yield f"license = {_quote(entry.license)}"
    yield f"gated = {str(entry.gated).lower()}"
    yield f"rank = {entry.rank}"
    yield f"rank_source = {_quote(entry.rank_source)}"
    if entry.exit_layer is not None:
        yield f"exit_layer = {entry.exit_layer}"
    if entry.thinking is not None:
        yield f"thinking = [{_quote(entry.thinking[0])}, {_quote(entry.thinking[1])}]"
    if entry.draft_file:
        yield f"draft = {_quote(entry.draft_file)}"
    if entry.notes:
        yield f"notes = {_quote(entry.notes)}"
    yield f"sampling = {_sampling(entry.sampling)}"
    yield from _shape_lines(entry.shape)
    for artifact in entry.artifacts:
        yield from _file_lines(artifact)


def _sampling(sampling: Sampling) -> str:
    values = {
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repeat_penalty,
    }
    return "{ " + ", ".join(f"{key} = {value}" for key, value in values.items()) + " }"


def _shape_lines(shape: ModelShape) -> Iterator[str]:
    yield "[model.shape]"
    yield f"architecture = {_quote(shape.architecture)}"
    values = {
        "layers": shape.n_layers,
        "hidden": shape.hidden,
        "heads": shape.n_heads,
        "ffn": shape.n_ffn,
        "vocab": shape.n_vocab,
        "limit": shape.limit,
        "short_limit": shape.short_limit,
        "params": shape.n_params,
        "active_params": shape.n_active_params,
    }
    yield from (f"{key} = {value}" for key, value in values.items())
    groups = [
        f"{{ layers = {kv.n_layers}, heads = {kv.n_kv_heads}, head_dim = {kv.head_dim}, window = {kv.window} }}"
        for kv in shape.kv
    ]
    yield f"kv = [{', '.join(groups)}]"


def _file_lines(artifact: Artifact) -> Iterator[str]:
    yield "[[model.files]]"
    yield f"backends = [{_quote(artifact.backend)}]"
    yield f"package = {_quote(artifact.package)}" if artifact.package else f"repo = {_quote(artifact.repo)}"
    if artifact.revision:
        yield f"revision = {_quote(artifact.revision)}"
    digest = f", sha256 = {_quote(artifact.sha256)}" if artifact.sha256 else ""
    size = "bytes" if artifact.exact else "about_bytes"
    yield (
        f"tiers = [{{ tier = {_quote(artifact.tier)}, {size} = {artifact.n_bytes}, "
        f"file = {_quote(artifact.file)}{digest} }}]"
    )

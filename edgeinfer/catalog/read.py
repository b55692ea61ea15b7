"""Entries of `models.toml` from its tables. Raises UsageError, naming the model and the key, on anything odd."""

from __future__ import annotations

import re
from collections.abc import Mapping

from edgeinfer.catalog.entry import Artifact, LayerKv, ModelEntry, ModelShape, Pick, Tier
from edgeinfer.errors import UsageError
from edgeinfer.formats.tables import Table
from edgeinfer.types import GREEDY, Sampling

__all__ = ["read_models", "read_picks", "read_tiers"]

_NAME = re.compile(r"[a-z0-9][a-z0-9.+_-]{0,95}")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_REVISION = re.compile(r"[0-9a-f]{40}")
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.+]*")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def read_tiers(top: Table) -> dict[str, Tier]:
    tiers = {}
    for name, table in top.named("tier").items():
        tiers[name] = Tier(name, bits=table.number("bits"), order=table.integer("order"))
        table.done()
    return tiers


def read_picks(top: Table) -> tuple[Pick, ...]:
    picks = []
    for table in top.tables("memory"):
        picks.append(Pick(table.integer("gb"), tuple(table.texts("models")), tuple(table.texts("tiers"))))
        table.done()
    return tuple(picks)


def read_models(top: Table, tiers: Mapping[str, Tier]) -> list[ModelEntry]:
    return [_model(table, tiers) for table in top.tables("model")]


def _model(table: Table, tiers: Mapping[str, Tier]) -> ModelEntry:
    name = table.text("name")
    if not _NAME.fullmatch(name):
        raise UsageError(f"{table.where}: a model name is lower-case letters, digits and .+_-; received {name!r}")
    table.where = f"model {name}"
    shape = _shape(table.table("shape"))
    thinking = table.texts("thinking", [])
    if len(thinking) not in (0, 2):
        raise UsageError(f"{table.where}: `thinking` must be two tags; received {thinking!r}")
    entry = ModelEntry(
        name=name,
        title=table.text("title"),
        license=table.text("license"),
        gated=table.flag("gated", False),
        rank=table.integer("rank", 0),
        rank_source=table.text("rank_source", ""),
        shape=shape,
        sampling=_sampling(table.table("sampling")) if "sampling" in table else GREEDY,
        artifacts=tuple(artifact for files in table.tables("files") for artifact in _artifacts(files, shape, tiers)),
        exit_layer=table.integer("exit_layer") if "exit_layer" in table else None,
        thinking=(thinking[0], thinking[1]) if thinking else None,
        notes=table.text("notes", ""),
        draft_file=table.text("draft", ""),
    )
    table.done()
    if not entry.artifacts:
        raise UsageError(f"model {name}: no files")
    return entry


def _shape(table: Table) -> ModelShape:
    groups = []
    for kv in table.tables("kv"):
        groups.append(
            LayerKv(kv.integer("layers"), kv.integer("heads"), kv.integer("head_dim"), kv.integer("window", 0))
        )
        kv.done()
    n_params = table.integer("params")
    shape = ModelShape(
        architecture=table.text("architecture"),
        n_layers=table.integer("layers"),
        hidden=table.integer("hidden"),
        n_heads=table.integer("heads"),
        n_ffn=table.integer("ffn"),
        n_vocab=table.integer("vocab"),
        limit=table.integer("limit"),
        kv=tuple(groups),
        n_params=n_params,
        n_active_params=table.integer("active_params", n_params),
        short_limit=table.integer("short_limit", 0),
    )
    table.done()
    if not (0 < shape.n_active_params <= n_params and shape.n_layers and shape.limit and shape.n_vocab and groups):
        raise UsageError(f"{table.where}: layers, limit, vocab, params and kv must be above 0, active_params <= params")
    return shape


def _sampling(table: Table) -> Sampling:
    sampling = Sampling(
        temperature=table.number("temperature", 1.0),
        top_k=table.integer("top_k", 0),
        top_p=table.number("top_p", 1.0),
        min_p=table.number("min_p", 0.0),
        repeat_penalty=table.number("repeat_penalty", 1.0),
    )
    table.done()
    return sampling


def _artifacts(files: Table, shape: ModelShape, tiers: Mapping[str, Tier]) -> list[Artifact]:
    """One artifact for each backend and tier of a source."""
    repo, revision = files.text("repo", ""), files.text("revision", "")
    embedded, package = files.flag("embedded", False), files.text("package", "")
    if package and (repo or embedded or not _PACKAGE.fullmatch(package)):
        raise UsageError(f"{files.where}: `package` must be name==version, without a repo; received {package!r}")
    if repo and not _REPO.fullmatch(repo):
        raise UsageError(f"{files.where}: `repo` must be org/name; received {repo!r}")
    if revision and not _REVISION.fullmatch(revision):
        raise UsageError(f"{files.where}: `revision` must be a full 40-digit commit; received {revision!r}")
    backends = files.texts("backends")
    artifacts = []
    for row in files.tables("tiers"):
        tier, sha256, file = row.text("tier"), row.text("sha256", ""), row.text("file", "")
        if sha256 and not _DIGEST.fullmatch(sha256):
            raise UsageError(f"{row.where}: `sha256` must be sha256:<64 hex digits>; received {sha256!r}")
        if tier not in tiers and "bytes" not in row:
            raise UsageError(f"{row.where}: tier {tier} is not in the tier table, so `bytes` is needed")
        exact = "bytes" in row
        if package and not (exact and sha256 and file):
            raise UsageError(f"{row.where}: a file of a package needs `file`, `bytes` and `sha256`")
        about = int(shape.n_params * tiers[tier].bits / 8) if not exact else 0
        n_bytes = row.integer("bytes") if exact else row.integer("about_bytes", about)
        source = row.text("repo", repo)
        row.done()
        pinned = revision if source == repo else ""
        artifacts += [
            Artifact(backend, tier, n_bytes, source, file, pinned, sha256, embedded, exact, package)
            for backend in backends
        ]
    files.done()
    return artifacts

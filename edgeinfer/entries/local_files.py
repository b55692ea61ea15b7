"""The files of catalog models on this machine, and what their headers say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgeinfer.catalog import Artifact, Catalog
from edgeinfer.errors import ArtifactError
from edgeinfer.formats import check_artifact
from edgeinfer.formats.gguf_header import GgufHeader, read_header
from edgeinfer.formats.gguf_split import n_parts
from edgeinfer.formats.shape import head_of, read_by_type
from edgeinfer.hub import locate, locate_packaged

__all__ = ["local_path", "with_own_tensors"]


def local_path(artifact: Artifact) -> Path | None:
    """The path of the artifact on this machine; None if it must be downloaded."""
    if artifact.embedded:
        path = Path(__file__).resolve().parents[1] / artifact.file
        if not path.exists():
            raise ArtifactError(f"the embedded model is missing: {path}", hint="install edgeinfer again")
        return path
    if artifact.package:
        return locate_packaged(artifact.package, artifact.file)
    if not artifact.repo:
        return Path(artifact.file)
    return locate(artifact.repo, artifact.file, artifact.revision)


def with_own_tensors(catalog: Catalog, model: str) -> Catalog:
    """`catalog` with the tensor types of the files on this machine: those of `model`, or of all models for ""."""
    models = tuple(
        replace(entry, artifacts=tuple(map(_with_own_tensors, entry.artifacts))) if model in ("", entry.name) else entry
        for entry in catalog.models
    )
    return replace(catalog, models=models)


def _with_own_tensors(artifact: Artifact) -> Artifact:
    if artifact.tensors or not artifact.file.endswith(".gguf"):
        return artifact
    try:
        path = local_path(artifact)
        header = _header(path) if path else None
    except (ArtifactError, OSError):  # loading reports what is wrong
        return artifact
    if header is None:
        return artifact
    return replace(artifact, tensors=tuple(read_by_type(header).items()), head=head_of(header))


def _header(path: Path) -> GgufHeader | None:
    """Of all parts where a file is split: joining them takes longer than reading one."""
    header = read_header(path)
    if n_parts(header) <= 1:
        return header
    joined = check_artifact(path)
    return joined if isinstance(joined, GgufHeader) else None

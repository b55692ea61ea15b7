"""The taught draft of a model: where its file is, and what its header says."""

from __future__ import annotations

from pathlib import Path

from edgeinfer.catalog.entry import ModelEntry, TaughtDraft
from edgeinfer.errors import ArtifactError
from edgeinfer.formats.draft_file import SUFFIX, read_draft_for
from edgeinfer.shape import ModelShape

__all__ = ["draft_of", "taught_draft"]


def draft_of(entry: ModelEntry) -> Path | None:
    """The file that the catalog names, else `NAME.draft.safetensors` beside the local file `NAME.gguf` of a model."""
    if entry.draft_file:
        return Path(entry.draft_file).expanduser()
    for artifact in entry.artifacts:
        if not (artifact.source or artifact.embedded) and artifact.file.endswith(".gguf"):
            path = Path(artifact.file.removesuffix(".gguf") + SUFFIX)
            if path.is_file():
                return path
    return None


def taught_draft(path: Path, model: ModelShape) -> TaughtDraft:
    """Raises ArtifactError for a file that is missing, is not a draft, or is a draft for another model."""
    if not path.is_file():
        raise ArtifactError(f"there is no draft {path}", hint="`edgeinfer tune NAME` teaches one")
    draft = read_draft_for(path, model)
    return TaughtDraft(
        kind=draft.kind,
        file=str(path.resolve()),
        n_bytes=draft.header.file_bytes,
        base_model=draft.base_model,
        exit_layer=draft.exit_layer,
        n_taps=len(draft.taps),
        n_ranked=len(draft.ranked_tokens),
        agreement=draft.agreement,
        by_vocabulary=draft.by_vocabulary,
    )

"""Chooses the file of a repository for a name."""

from __future__ import annotations

from pathlib import PurePosixPath

from edgeinfer.errors import ArtifactError, ModelNotFoundError
from edgeinfer.hub.file_names import is_first_part, is_model, is_part, part_names, tier_in
from edgeinfer.hub.names import near
from edgeinfer.hub.remote import RemoteFile, RemoteRepo

__all__ = ["choose_file", "folder_files", "tiers"]

DEFAULT_TIERS = ("Q4_K_M", "Q4_0", "Q5_K_M", "Q8_0")

_FOLDER_SUFFIXES = frozenset({".safetensors", ".json", ".jinja", ".txt", ".model"})


def tiers(repo: RemoteRepo) -> dict[str, RemoteFile]:
    """The GGUF files of `repo` by tier, in upper case. Of two with one tier the shorter name wins.

    A file in parts is its first part, where all of them are listed.
    """
    names = {file.file for file in repo.files}
    found: dict[str, RemoteFile] = {}
    for file in sorted(_models(repo), key=lambda file: (len(file.file), file.file)):
        if is_first_part(file.file) and names.issuperset(part_names(file.file)) and (tier := tier_in(file.file)):
            found.setdefault(tier, file)
    return found


def choose_file(repo: RemoteRepo, tier: str = "") -> RemoteFile | None:
    """The GGUF file of `tier`, or of the first default tier that is there; None: the repository is a model folder.

    For a file in parts, the first part. Raises ModelNotFoundError with the tiers that exist, and ArtifactError for
    a tier of which some parts are missing.
    """
    by_tier, wanted = tiers(repo), tier.upper()
    if wanted in by_tier:
        return by_tier[wanted]
    models = _models(repo)
    if not models and not wanted and any(file.file.endswith(".safetensors") for file in repo.files):
        return None
    if wanted and any(is_part(file.file) and tier_in(file.file) == wanted for file in models):
        raise ArtifactError(f"{repo.repo} has {tier} only in parts, and not all of them", hint=_offer(by_tier, wanted))
    if wanted:
        raise ModelNotFoundError(f"{repo.repo} has no tier {tier}", hint=_offer(by_tier, wanted))
    for default in DEFAULT_TIERS:
        if default in by_tier:
            return by_tier[default]
    if len(models) == 1 and not is_part(models[0].file):
        return models[0]
    if not models:
        raise ModelNotFoundError(
            f"{repo.repo} holds neither a .gguf nor .safetensors", hint=f"see {repo.url}/tree/main"
        )
    raise ModelNotFoundError(f"{repo.repo} holds {len(models)} files; name a tier", hint=_offer(by_tier, ""))


def folder_files(repo: RemoteRepo) -> tuple[RemoteFile, ...]:
    """The files of a model folder: weights, configuration and tokenizer at its top; no code, no pickles."""
    return tuple(f for f in repo.files if "/" not in f.file and PurePosixPath(f.file).suffix in _FOLDER_SUFFIXES)


def _models(repo: RemoteRepo) -> list[RemoteFile]:
    return [f for f in repo.files if f.file.endswith(".gguf") and is_model(f.file)]


def _offer(by_tier: dict[str, RemoteFile], wanted: str) -> str:
    if not by_tier:
        return "choose another repository"
    return near(wanted, by_tier) or f"it has {', '.join(by_tier)}"

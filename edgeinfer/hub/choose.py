"""Which file of a repository a name means."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from edgeinfer.errors import ArtifactBad, ModelNotFound
from edgeinfer.hub.names import near
from edgeinfer.hub.remote import RemoteFile, RemoteRepo

__all__ = ["choose_file", "folder_files", "is_of_tier", "tiers"]

DEFAULT_TIERS = ("Q4_K_M", "Q4_0", "Q5_K_M", "Q8_0")

_TIER = re.compile(r"(?<![A-Za-z0-9])(I?Q\d+(?:_[A-Z0-9]+)*|BF16|F16|F32|MXFP4|TQ\d_0)(?![A-Za-z0-9_])", re.IGNORECASE)
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_NOT_A_MODEL = re.compile(r"(^|[-_.])(mmproj|imatrix|vocab)", re.IGNORECASE)
_FOLDER_SUFFIXES = frozenset({".safetensors", ".json", ".jinja", ".txt", ".model"})


def tiers(repo: RemoteRepo) -> dict[str, RemoteFile]:
    """The GGUF files of `repo` by tier, in upper case. Of two with one tier the shorter name wins."""
    found: dict[str, RemoteFile] = {}
    for file in sorted(_models(repo), key=lambda file: (len(file.file), file.file)):
        if not _SPLIT.search(file.file) and (tier := _tier_in(file.file)):
            found.setdefault(tier, file)
    return found


def is_of_tier(file: str, tier: str) -> bool:
    """Whether the name of a GGUF `file` says that it is a model of `tier`; "" is every one."""
    return _is_model(file) and (not tier or _tier_in(file) == tier.upper())


def choose_file(repo: RemoteRepo, tier: str = "") -> RemoteFile | None:
    """The GGUF file of `tier`, or of the first default tier that is there; None: the repository is a model folder.

    Raises ModelNotFound with the tiers that there are, ArtifactBad when the tier is only there in parts.
    """
    by_tier, wanted = tiers(repo), tier.upper()
    if wanted in by_tier:
        return by_tier[wanted]
    models = _models(repo)
    if not models and not wanted and any(file.file.endswith(".safetensors") for file in repo.files):
        return None
    if wanted and any(_SPLIT.search(file.file) and wanted in file.file.upper() for file in models):
        raise ArtifactBad(f"{repo.repo} has {tier} only as a split file", hint=_offer(by_tier, wanted))
    if wanted:
        raise ModelNotFound(f"{repo.repo} has no tier {tier}", hint=_offer(by_tier, wanted))
    for default in DEFAULT_TIERS:
        if default in by_tier:
            return by_tier[default]
    if len(models) == 1 and not _SPLIT.search(models[0].file):
        return models[0]
    if not models:
        raise ModelNotFound(f"{repo.repo} holds neither a .gguf nor .safetensors", hint=f"see {repo.url}/tree/main")
    raise ModelNotFound(f"{repo.repo} holds {len(models)} files; name a tier", hint=_offer(by_tier, ""))


def folder_files(repo: RemoteRepo) -> tuple[RemoteFile, ...]:
    """The files of a model folder: weights, configuration and tokenizer at its top; no code, no pickles."""
    return tuple(f for f in repo.files if "/" not in f.file and PurePosixPath(f.file).suffix in _FOLDER_SUFFIXES)


def _models(repo: RemoteRepo) -> list[RemoteFile]:
    return [f for f in repo.files if f.file.endswith(".gguf") and _is_model(f.file)]


def _is_model(file: str) -> bool:
    return not _NOT_A_MODEL.search(PurePosixPath(file).name)


def _tier_in(file: str) -> str:
    """The tier that the name of `file` ends with, in upper case; "" for none."""
    names = _TIER.findall(PurePosixPath(file).stem)
    return names[-1].upper() if names else ""


def _offer(by_tier: dict[str, RemoteFile], wanted: str) -> str:
    if not by_tier:
        return "choose another repository"
    return near(wanted, by_tier) or f"it has {', '.join(by_tier)}"

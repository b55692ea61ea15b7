"""Makes an entry for a model that is in no catalog, from what its file says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from edgeinfer import backends
from edgeinfer.catalog.entry import Artifact, ModelEntry
from edgeinfer.chat.trace_formats import mentioned_in
from edgeinfer.entries.bundles import entry_of_bundle
from edgeinfer.entries.folders import entry_of_config, read_config, tier_of
from edgeinfer.entries.recognize import recognized
from edgeinfer.errors import DownloadError
from edgeinfer.formats import check_artifact, facts_from_gguf
from edgeinfer.formats.bundle import check_bundle, is_bundle
from edgeinfer.formats.bundle_zip import is_bundle_zip, unpacked
from edgeinfer.formats.gguf_header import GgufHeader
from edgeinfer.formats.gguf_split import join_headers, n_parts
from edgeinfer.formats.hf_folder import chat_template
from edgeinfer.formats.shape import GgufFacts
from edgeinfer.hub import RemoteRepo, choose_file, folder_files, installed, is_of_tier, look_up, pull, remote_header
from edgeinfer.text import one_line
from edgeinfer.types import Sampling

RANK_SOURCE = "not ranked: it is in no catalog"
USUAL = Sampling(temperature=0.7, top_p=0.95, top_k=40)  # where a file recommends no sampling


def entry_of_path(path: Path, known: Sequence[ModelEntry] = ()) -> ModelEntry:
    """The entry of a local `.gguf` file, a folder or a zipped bundle. Raises ArtifactError for anything else.

    `known` are the models of the catalog, among which the file may be recognized.
    """
    if is_bundle_zip(path):
        return entry_of_bundle(name_of(path.stem), check_bundle(unpacked(path)), USUAL)
    if is_bundle(path):
        return entry_of_bundle(name_of(path.resolve().name), check_bundle(path), USUAL)
    checked = check_artifact(path)
    if isinstance(checked, GgufHeader):
        first = checked.parts[0] if checked.parts else path
        whole = first.absolute() if checked.parts else first.resolve()  # links lead to blobs, whose names show no part
        return entry_of_header(first.stem, checked, File("", str(whole)), known)
    artifact = Artifact("", tier_of(checked.config), checked.n_bytes, repo="", file=str(path.resolve()))
    entry = for_readers_of_folders(entry_of_config(name_of(path.resolve().name), checked.config, artifact, USUAL))
    return recognized(entry, known if chat_template(path) else (), [entry.name])


def entry_of_repo(
    repo: str, tier: str, *, file: str = "", offline: bool, known: Sequence[ModelEntry] = ()
) -> ModelEntry:
    """The entry of one GGUF file of `org/repo` (`file`, or the one of `tier`), from the cache or else from the hub.

    Raises ModelNotFoundError and DownloadError as the hub does, and DownloadError if `offline` forbids a request.
    """

    def wanted(name: str) -> bool:
        return name == file if file else is_of_tier(name, tier)

    here = [model for model in installed() if model.repo == repo and wanted(model.file)]
    if here and not here[0].file:
        return replace(entry_of_path(here[0].path, known), name=name_of(repo))
    if here:
        found = here[0]
        header = check_artifact(found.path)
        assert isinstance(header, GgufHeader)  # only .gguf files have a `file`
        return entry_of_header(name_of(repo), header, File(repo, found.file, found.revision, found.sha256), known)
    if offline:
        raise DownloadError(
            f"{repo} is not on this machine, and the network is not to be used",
            hint=f"`edgeinfer pull {repo}` with a network",
        )
    listing = look_up(repo)
    chosen = listing.file(file) if file else choose_file(listing, tier)
    if chosen is None:
        return entry_of_remote_folder(listing)
    parts = [part.file for part in listing.parts(chosen.file)]
    headers = [remote_header(repo, part, listing.revision) for part in parts]
    header = headers[0]
    if n_parts(header) > 1 or len(parts) > 1:
        header = replace(join_headers(headers, parts), parts=tuple(map(Path, parts)))
    entry = entry_of_header(name_of(repo), header, File(repo, chosen.file, listing.revision, chosen.sha256), known)
    return replace(entry, license=listing.license or entry.license, gated=listing.gated)


def entry_of_remote_folder(listing: RemoteRepo) -> ModelEntry:
    """The entry of a repository that is one model folder; only its `config.json` is fetched."""
    config = read_config(pull(listing.repo, "config.json", listing.revision))
    n_bytes = sum(file.n_bytes for file in folder_files(listing) if file.file.endswith(".safetensors"))
    artifact = Artifact("", tier_of(config), n_bytes, listing.repo, "", listing.revision)
    entry = for_readers_of_folders(entry_of_config(name_of(listing.repo), config, artifact, USUAL))
    return replace(entry, license=listing.license or entry.license, gated=listing.gated)


def for_readers_of_folders(entry: ModelEntry) -> ModelEntry:
    """`entry` with its folder as an artifact of each backend that loads it."""
    names = [facts.name for facts in backends.FACTS if facts.reads_folder(entry.shape.architecture)]
    return replace(entry, artifacts=tuple(replace(file, backend=name) for name in names for file in entry.artifacts))


@dataclass(frozen=True, slots=True)
class File:
    """The location of a GGUF: in a repository, or at a path if `repo` is ""."""

    repo: str
    file: str
    revision: str = ""
    sha256: str = ""


def name_of(repo: str) -> str:
    """A catalog name: `org/Some-Model-GGUF` becomes `some-model`."""
    words = re.sub(r"[^a-z0-9.]+", "-", repo.rpartition("/")[2].lower()).strip("-.")
    return words.removesuffix("-gguf") or "model"


def entry_of_header(name: str, header: GgufHeader, file: File, known: Sequence[ModelEntry] = ()) -> ModelEntry:
    facts = facts_from_gguf(header)
    n_files = max(1, len(header.parts))
    able = [one.name for one in backends.FACTS if one.reads_gguf(facts.shape.architecture, n_files=n_files)]
    artifacts = tuple(
        Artifact(
            backend,
            facts.tier or "unknown",
            facts.n_bytes,
            file.repo,
            file.file,
            file.revision,
            file.sha256,
            tensors=facts.tensors,
            head=facts.head,
        )
        for backend in able
    )
    entry = ModelEntry(
        name=name,
        title=title_of(facts) or name,
        license=facts.license or "not stated",
        gated=False,
        rank=0,
        rank_source=RANK_SOURCE,
        shape=facts.shape,
        sampling=usual_sampling(header),
        artifacts=artifacts,
        exit_layer=facts.exit_layer,
        thinking=tags_of_template(header),
        in_catalog=False,
    )
    names = [name, PurePosixPath(file.file).stem, facts.name, facts.base_model]
    return recognized(entry, known if facts.has_template else (), names)


def usual_sampling(header: GgufHeader) -> Sampling:
    """The sampling that the file recommends (`general.sampling.*`), if any."""

    def said(key: str, usual: float, most: float) -> float:
        value = header.metadata.get(f"general.sampling.{key}")
        return value if isinstance(value, int | float) and 0 <= value <= most else usual

    return replace(
        USUAL,
        temperature=said("temp", USUAL.temperature, 10.0),
        top_k=int(said("top_k", USUAL.top_k, 1e6)),
        top_p=said("top_p", USUAL.top_p, 1.0),
    )


def title_of(facts: GgufFacts) -> str:
    """The file's own name with its true base model, in one printable line."""
    base = facts.base_model.rpartition("/")[2]
    named = f"{facts.name} (from {base})" if base and base not in facts.name else facts.name
    return one_line(named)[:120]


def tags_of_template(header: GgufHeader) -> tuple[str, str] | None:
    template = header.metadata.get("tokenizer.chat_template", "")
    trace = next(mentioned_in(template), None) if isinstance(template, str) else None
    return (trace.opening, trace.closings[0]) if trace else None

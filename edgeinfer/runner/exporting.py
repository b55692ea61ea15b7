"""Exports a phone bundle: the backend writes the program, and the chat template is described for the phone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeinfer.backends.executorch.export.bundle import Claims, Storage, export_bundle
from edgeinfer.catalog import ModelEntry, load_catalog
from edgeinfer.chat.pieces import chat_pieces
from edgeinfer.chat.reasoning import NO_THINKING
from edgeinfer.chat.template import CHATML, Renderer, Template
from edgeinfer.entries.files import entry_of_path
from edgeinfer.errors import ArtifactError
from edgeinfer.formats.artifact import check_artifact
from edgeinfer.formats.chat_pieces import ChatPieces
from edgeinfer.formats.draft_file import DraftFile, read_draft_for
from edgeinfer.formats.gguf_header import GgufHeader
from edgeinfer.formats.hf_folder import card_claims
from edgeinfer.formats.manifest import Manifest
from edgeinfer.formats.shape import facts_from_gguf
from edgeinfer.protocols import Tokenizer
from edgeinfer.runner.taught import draft_of

__all__ = ["FoundDraft", "claims_of", "describe_chat", "export", "found_draft"]


@dataclass(frozen=True, slots=True)
class FoundDraft:
    """The taught draft of a model, or why one that exists is left out; both may be missing."""

    file: DraftFile | None = None
    left_out: str = ""


def found_draft(entry: ModelEntry, named: Path | None = None) -> FoundDraft:
    """The draft that a bundle of `entry` gets: `named`, else that of the catalog, else the one beside the model.

    Raises ArtifactError where `named` is no draft for this model.
    """
    path = named or draft_of(entry)
    if path is None:
        return FoundDraft()
    try:
        return FoundDraft(read_draft_for(path, entry.shape))
    except ArtifactError as error:
        if named is not None:
            raise
        return FoundDraft(left_out=str(error))  # it was not asked for


def export(model: Path, out: Path, storage: Storage) -> Manifest:
    """Raises what `export_bundle` raises."""
    return export_bundle(model, out, storage, claims_of(model), describe_chat)


def claims_of(model: Path) -> Claims:
    """Name, base model and license as the file or model card states them, corrected by the catalog."""
    checked = check_artifact(model)
    if isinstance(checked, GgufHeader):
        facts = facts_from_gguf(checked)
        stated = Claims(facts.name or model.stem, facts.base_model, facts.license)
    else:
        license_name, base_model = card_claims(model)
        stated = Claims(model.name, base_model, license_name)
    known = load_catalog().models
    title = entry_of_path(model, known).title
    entry = next((entry for entry in known if entry.title == title), None)
    return stated if entry is None else Claims(entry.title, stated.base_model or entry.title, entry.license)


def describe_chat(tokenizer: Tokenizer) -> ChatPieces:
    """Raises ArtifactError for a template that a phone cannot write."""
    renderer = Renderer()
    try:
        source = tokenizer.chat_template or CHATML
        template = Template(renderer, source, bos=tokenizer.bos_text, eos=tokenizer.eos_text)
        return chat_pieces(template, tokenizer, NO_THINKING)
    finally:
        renderer.close()

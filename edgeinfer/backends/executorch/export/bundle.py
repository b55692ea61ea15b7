"""Writes a phone bundle from a GGUF file or a Hugging Face folder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import psutil

from edgeinfer.backends.executorch.export.quiet import quiet
from edgeinfer.backends.executorch.export.shape import DecoderShape
from edgeinfer.backends.executorch.export.sizes import peak_bytes
from edgeinfer.backends.executorch.export.source import Source, open_source
from edgeinfer.backends.executorch.exports import draft_bytes, read_bytes
from edgeinfer.backends.executorch.facts import FACTS, kv_bytes_per_position
from edgeinfer.backends.executorch.golden import record
from edgeinfer.errors import ArtifactError, BackendError, NoPlanError, UsageError
from edgeinfer.formats.artifact import check_artifact
from edgeinfer.formats.bundle import check_bundle, file_of, write_ranked_tokens
from edgeinfer.formats.chat_pieces import ChatPieces
from edgeinfer.formats.draft_file import DraftFile
from edgeinfer.formats.gguf_header import GgufHeader
from edgeinfer.formats.gguf_tokenizer import GgufTokenizer
from edgeinfer.formats.hf_tokenizer import HfTokenizer
from edgeinfer.formats.manifest import (
    MANIFEST,
    PROGRAM,
    TEMPLATE,
    TOKENIZER,
    BundleDraft,
    Manifest,
    Memory,
    write_manifest,
)
from edgeinfer.formats.paths import sha256_of
from edgeinfer.formats.phone_tokenizer import check_tokenizer
from edgeinfer.protocols import Tokenizer
from edgeinfer.types import KvType

if TYPE_CHECKING:
    from edgeinfer.backends.executorch.export.program import Exported
    from edgeinfer.backends.executorch.export.quantize import Tier

Target = Literal["xnnpack", "coreml"]
DescribeChat: TypeAlias = Callable[[Tokenizer], ChatPieces]
"""Describes the chat template of a tokenizer. Raises ArtifactError for a template that a phone cannot write."""
_PACKAGES = ("torch", "executorch", "torchao")
_SAMPLE = Path(__file__).with_name("calibration.txt")  # the project's own text
_INSTALL = "pip install 'edgeinfer[export]'"


@dataclass(frozen=True, slots=True)
class Storage:
    """How a bundle stores weights, and how it keeps K and V. `draft`: one that was taught to the model."""

    tier: Tier = "8da4w"
    kv_type: KvType = "f32"
    draft: DraftFile | None = None


@dataclass(frozen=True, slots=True)
class Claims:
    """The name of a model, the model that it was made from, and its license; "" for what is not known."""

    name: str
    base_model: str
    license: str


def export_bundle(model: Path, out: Path, storage: Storage, claims: Claims, describe_chat: DescribeChat) -> Manifest:
    """Export `model` into the new folder `out`: all of it, or nothing.

    Raises UsageError when `out` exists, ArtifactError for a model that is not exported, NoPlanError when it
    takes more memory than is free, BackendError without the extra `[export]`.
    """
    if out.exists():
        raise UsageError(f"{out} exists already", hint="choose another folder, or remove it")
    source = open_source(model)
    tier = storage.tier
    check_memory(source, tier)
    write_program = _exporter(target_of(tier))
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        folder = Path(scratch) / out.name
        folder.mkdir()
        tokenizer = _write_tokenizer(model, folder)
        chat = describe_chat(tokenizer)
        sample = tokenizer.encode(_SAMPLE.read_text(encoding="utf-8"), special=False)
        exported = write_program(source, tier, folder / PROGRAM, sample, storage.draft)
        if storage.draft is not None:
            write_ranked_tokens(folder, storage.draft.ranked_tokens)
        manifest = _manifest(source, storage, claims, tokenizer, chat, exported, folder)
        write_manifest(folder, manifest)
        if manifest.target == "xnnpack":
            record(folder)
            manifest = check_bundle(folder).manifest
        folder.rename(out)
    return manifest


def target_of(tier: Tier) -> Target:
    """What a program of `tier` is lowered for."""
    return "coreml" if tier == "fp16" else "xnnpack"


def check_memory(source: Source, tier: Tier) -> None:
    """Raise NoPlanError when this machine has less free memory than the export takes."""
    needed, free = peak_bytes(source.shape, tier) / 1e9, psutil.virtual_memory().available / 1e9
    if needed > free:
        raise NoPlanError(
            f"exporting {source.path.name} as {tier} takes {needed:.1f} GB of memory, and {free:.1f} GB are free",
            hint="close other programs, or export on a larger machine",
        )


def _exporter(target: Target) -> Any:
    try:
        with quiet():
            if target == "coreml":
                from edgeinfer.backends.executorch.export.coreml import write_program
            else:
                from edgeinfer.backends.executorch.export.program import write_program
    except ImportError as error:
        raise BackendError(f"exporting needs more packages: {error}", hint=_INSTALL) from error
    return write_program


def _manifest(
    source: Source,
    storage: Storage,
    claims: Claims,
    tokenizer: Tokenizer,
    chat: ChatPieces,
    exported: Exported,
    folder: Path,
) -> Manifest:
    shape, names = source.shape, sorted(path.name for path in folder.iterdir())
    return Manifest(
        name=claims.name,
        base_model=claims.base_model,
        license=claims.license,
        source_sha256=sha256_of(_weights_file(source.path)),
        tier=storage.tier,
        target=target_of(storage.tier),
        policy="sinks-and-blocks",
        kv_type=storage.kv_type,
        architecture=shape.architecture,
        n_layers=shape.n_layers,
        n_heads=shape.n_heads,
        n_kv_heads=shape.n_kv_heads,
        head_dim=shape.head_dim,
        hidden=shape.hidden,
        n_ffn=shape.n_ffn,
        n_vocab=shape.n_vocab,
        limit=shape.limit,
        exit_layer=exported.exit_layer,
        exact_rows=0,
        memory=_memory(shape, storage),
        bos_text=tokenizer.bos_text,
        eos_text=tokenizer.eos_text,
        stop_tokens=tuple(sorted(tokenizer.stop_tokens)),
        runtime=version("executorch"),
        methods=exported.methods,
        operators=exported.operators,
        chat=chat,
        exporter={package: version(package) for package in _PACKAGES},
        files={name: file_of(folder / name) for name in names if name != MANIFEST},
        draft=_draft(storage.draft) if storage.draft else None,
    )


def _draft(file: DraftFile) -> BundleDraft:
    return BundleDraft(
        kind=file.kind,
        exit_layer=file.exit_layer,
        taps=file.taps,
        n_ranked=len(file.ranked_tokens),
        base_model=file.base_model,
        license=file.license,
        source_sha256=sha256_of(file.path),
        agreement=file.agreement,
    )


def _memory(shape: DecoderShape, storage: Storage) -> Memory:
    return Memory(
        packed_bytes=read_bytes(shape.of_model, storage.tier)
        + (draft_bytes(storage.draft, storage.tier) if storage.draft else 0),
        workspace_bytes=FACTS.workspace_bytes(shape.of_model, early_exit=bool(shape.exit_layer)),
        kv_bytes_per_position=kv_bytes_per_position(shape.of_model, storage.kv_type),
    )


def _weights_file(path: Path) -> Path:
    """The file whose digest names the source; of a folder with several, the first."""
    return path if path.is_file() else min(path.glob("*.safetensors"))


def _write_tokenizer(model: Path, folder: Path) -> Tokenizer:
    if model.is_dir():
        tokenizer: HfTokenizer | GgufTokenizer = HfTokenizer(model)
    else:
        header = check_artifact(model)
        if not isinstance(header, GgufHeader):
            raise ArtifactError(f"{model} is not a GGUF file")
        tokenizer = GgufTokenizer(header)
    tokenizer.save(folder / TOKENIZER)
    check_tokenizer(folder / TOKENIZER)
    if tokenizer.chat_template is not None:
        (folder / TEMPLATE).write_text(tokenizer.chat_template, encoding="utf-8")
    return tokenizer

"""A phone bundle: one folder with an exported program, its tokenizer and a manifest. Checked before an engine sees it.

manifest.json        what the program is and needs, and the size and digest of every other file: manifest.schema.json
model.pte            the ExecuTorch program
tokenizer.json       as the `tokenizers` library writes it
chat_template.jinja  absent where the model has none
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeinfer.errors import ArtifactError, UsageError
from edgeinfer.formats.paths import check_digest, sha256_of
from edgeinfer.formats.tables import Table

__all__ = ["MANIFEST", "PROGRAM", "Bundle", "Manifest", "check_bundle", "check_files", "is_bundle"]

MANIFEST, PROGRAM, TOKENIZER, TEMPLATE = "manifest.json", "model.pte", "tokenizer.json", "chat_template.jinja"
SCHEMA_VERSION = 1
MAX_MANIFEST_BYTES = 1 << 20
_NEEDED = frozenset({PROGRAM, TOKENIZER})
_KNOWN = _NEEDED | {TEMPLATE}
_HINT = "export the model again"


@dataclass(frozen=True, slots=True)
class BundleFile:
    n_bytes: int
    sha256: str  # "sha256:" and 64 hex digits


@dataclass(frozen=True, slots=True)
class Golden:
    """A prompt and what the exported program said to it, greedily: [n] ids each. `logits`: of the answer's ids."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    logits: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """`exact_rows` and `golden` are recorded where the exporter could run the program; 0 and () where it could not."""

    name: str
    base_model: str
    license: str
    source_sha256: str
    tier: str
    architecture: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    hidden: int
    n_ffn: int
    n_vocab: int
    limit: int
    exit_layer: int  # 0: the model does not draft
    exact_rows: int
    arena_bytes: int  # activations of the program
    bos_text: str
    eos_text: str
    stop_tokens: tuple[int, ...]
    runtime: str  # the oldest ExecuTorch that runs it
    methods: tuple[str, ...]
    operators: tuple[str, ...]
    exporter: Mapping[str, str]  # package to version
    files: Mapping[str, BundleFile]
    golden: tuple[Golden, ...] = ()

    @property
    def n_params(self) -> int:
        """Weights of matrices, those of the embedding and of the head counted apart."""
        attention = 2 * self.hidden * self.head_dim * (self.n_heads + self.n_kv_heads)
        return self.n_layers * (attention + 3 * self.hidden * self.n_ffn) + 2 * self.n_vocab * self.hidden

    @property
    def kv_bytes_per_position(self) -> int:
        return 2 * self.n_layers * self.n_kv_heads * self.head_dim * 4


@dataclass(frozen=True, slots=True)
class Bundle:
    path: Path
    manifest: Manifest

    @property
    def program(self) -> Path:
        return self.path / PROGRAM


def is_bundle(path: Path) -> bool:
    return path.is_dir() and (path / MANIFEST).exists() and (path / PROGRAM).exists()


def check_bundle(folder: Path) -> Bundle:
    """Read the manifest and hold the files to it by name and size. Raises ArtifactError.

    `check_files` compares the digests too, which reads every byte.
    """
    if folder.is_file():
        raise ArtifactError(f"{folder} is a file; a bundle is a folder", hint="unpack an archive first")
    path = folder / MANIFEST
    try:
        data = path.read_bytes()[: MAX_MANIFEST_BYTES + 1]
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror or error}", hint=_HINT) from error
    if len(data) > MAX_MANIFEST_BYTES:
        raise ArtifactError(f"{path} has more than {MAX_MANIFEST_BYTES} bytes", hint=_HINT)
    try:
        manifest = _manifest(json.loads(data), str(path))
    except (ValueError, RecursionError, UsageError) as error:
        raise ArtifactError(f"{path}: {str(error).removeprefix(f'{path}: ')}", hint=_HINT) from error
    _check_names_and_sizes(folder, manifest)
    return Bundle(folder, manifest)


def check_files(bundle: Bundle) -> None:
    """Compare every file's digest with the manifest. Raises ArtifactError."""
    for name, expected in bundle.manifest.files.items():
        found = sha256_of(bundle.path / name)
        if found != expected.sha256:
            raise ArtifactError(f"{bundle.path / name} was changed: {found}, not {expected.sha256}", hint=_HINT)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    fields: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
    for name in Manifest.__slots__:
        fields[name] = getattr(manifest, name)
    fields["exporter"] = dict(manifest.exporter)
    fields["files"] = {name: {"n_bytes": file.n_bytes, "sha256": file.sha256} for name, file in manifest.files.items()}
    fields["golden"] = [
        {"prompt": list(golden.prompt), "answer": list(golden.answer), "logits": list(golden.logits)}
        for golden in manifest.golden
    ]
    (folder / MANIFEST).write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")


def file_of(path: Path) -> BundleFile:
    return BundleFile(path.stat().st_size, sha256_of(path))


def _manifest(data: object, where: str) -> Manifest:
    if not isinstance(data, dict):
        raise ValueError("it is not a JSON object")
    table = Table(data, where)
    version = table.integer("schema_version")
    if version != SCHEMA_VERSION:
        raise ValueError(f"it is of schema {version}; this version reads schema {SCHEMA_VERSION}")
    numbers = {name: table.integer(name) for name in _POSITIVE}
    if bad := next((name for name, value in numbers.items() if not 0 < value < 1 << 31), None):
        raise ValueError(f"`{bad}` is {numbers[bad]}")
    manifest = Manifest(
        name=table.text("name"),
        base_model=table.text("base_model"),
        license=table.text("license"),
        source_sha256=check_digest(table.text("source_sha256")),
        tier=table.text("tier"),
        architecture=table.text("architecture"),
        **numbers,
        exit_layer=table.integer("exit_layer"),
        exact_rows=table.integer("exact_rows"),
        arena_bytes=table.integer("arena_bytes"),
        bos_text=table.text("bos_text"),
        eos_text=table.text("eos_text"),
        runtime=table.text("runtime"),
        stop_tokens=_ids(table, "stop_tokens"),
        methods=tuple(table.texts("methods")),
        operators=tuple(table.texts("operators")),
        exporter=table.table("exporter").all_texts(),
        files={name: _file(name, fields) for name, fields in table.named("files").items()},
        golden=tuple(map(_golden, table.tables("golden"))),
    )
    table.done()
    if manifest.exit_layer >= manifest.n_layers:
        raise ValueError(f"`exit_layer` is {manifest.exit_layer}; there are {manifest.n_layers} layers")
    return manifest


_POSITIVE = ("n_layers", "n_heads", "n_kv_heads", "head_dim", "hidden", "n_ffn", "n_vocab", "limit")


def _file(name: str, table: Table) -> BundleFile:
    if name not in _KNOWN:
        raise ValueError(f"`files` names {name[:60]!r}; a bundle holds {', '.join(sorted(_KNOWN))}")
    found = BundleFile(table.integer("n_bytes"), check_digest(table.text("sha256")))
    table.done()
    return found


def _golden(table: Table) -> Golden:
    golden = Golden(_ids(table, "prompt"), _ids(table, "answer"), tuple(table.numbers("logits")))
    table.done()
    if len(golden.answer) != len(golden.logits):
        raise ValueError(f"`golden` has {len(golden.answer)} ids and {len(golden.logits)} logits")
    return golden


def _ids(table: Table, key: str) -> tuple[int, ...]:
    values = table.integers(key)
    if not all(0 <= value < 1 << 31 for value in values):
        raise ValueError(f"`{key}` holds something that is not a token id")
    return tuple(values)


def _check_names_and_sizes(folder: Path, manifest: Manifest) -> None:
    if missing := sorted(_NEEDED - set(manifest.files)):
        raise ArtifactError(f"{folder}: the manifest does not name {missing[0]}", hint=_HINT)
    found = {path.name for path in folder.iterdir()}
    if strangers := sorted(found - set(manifest.files) - {MANIFEST}):
        raise ArtifactError(f"{folder} holds {strangers[0][:60]!r}, which its manifest does not name", hint=_HINT)
    for name, expected in manifest.files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise ArtifactError(f"{path} is missing, or is not a regular file", hint=_HINT)
        if path.stat().st_size != expected.n_bytes:
            raise ArtifactError(
                f"{path} has {path.stat().st_size} bytes; its manifest says {expected.n_bytes}", hint=_HINT
            )

"""The manifest of a phone bundle: what its program is and needs. The schema for apps is manifest.schema.json.

`digest` is the SHA-256 of the file itself with the 64 digits of that value set to 0, so a changed byte is seen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, TypeVar

from edgeinfer.errors import ArtifactError, UsageError
from edgeinfer.formats.chat_pieces import ChatPieces, read_chat, token_ids
from edgeinfer.formats.paths import check_digest
from edgeinfer.formats.tables import Table
from edgeinfer.named_files import open_file
from edgeinfer.shape import ModelShape, shape_of
from edgeinfer.types import KvType

__all__ = [
    "BundleDraft",
    "BundleFile",
    "Golden",
    "Manifest",
    "Memory",
    "Method",
    "read_manifest",
    "sealed",
    "write_manifest",
]

MANIFEST, PROGRAM, TOKENIZER, TEMPLATE = "manifest.json", "model.pte", "tokenizer.json", "chat_template.jinja"
DRAFT_TOKENS: Final = "draft_tokens.bin"  # ranked tokens of a draft: int32, little-endian, most frequent first
KNOWN_FILES: Final = frozenset({PROGRAM, TOKENIZER, TEMPLATE, DRAFT_TOKENS})
SCHEMA_VERSION: Final = 2
DRAFTED_SCHEMA: Final = 3  # of a bundle with a taught draft
TARGETS: Final = ("xnnpack",)
POLICIES: Final = ("sinks-and-blocks",)  # of edgeinfer/window.py
DRAFT_KINDS: Final[tuple[Literal["exit", "feature"], ...]] = ("exit", "feature")
MAX_TAPS: Final = 8
MAX_DEPTHS: Final = 16
KV_TYPES: Final[tuple[KvType, ...]] = ("f32", "f16", "q8_0")  # in the order of ei_kv_type in engine.h
MAX_MANIFEST_BYTES: Final = 1 << 20
HINT: Final = "export the model again"
_NO_DIGEST: Final = "sha256:" + "0" * 64
T = TypeVar("T", bound=str)


@dataclass(frozen=True, slots=True)
class BundleFile:
    n_bytes: int
    sha256: str  # "sha256:" and 64 hex digits


@dataclass(frozen=True, slots=True)
class Method:
    """Types and shapes of a method of the program, such as "int64[1, n_tokens]"."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that running takes: `packed_bytes` for weights, as clean pages of a file where there is a cache folder."""

    packed_bytes: int
    workspace_bytes: int  # activations, logits, tokenizer and engine
    kv_bytes_per_position: int  # of one conversation


@dataclass(frozen=True, slots=True)
class BundleDraft:
    """A taught draft among the methods of the program; its tokens are in DRAFT_TOKENS. See `formats/draft_file.py`."""

    kind: Literal["exit", "feature"]
    exit_layer: int  # layers of the model before an exit draft; 0 for a feature draft
    taps: tuple[int, ...]  # numbers of layers run; empty for an exit draft
    n_ranked: int  # tokens among which it chooses
    base_model: str
    license: str
    source_sha256: str  # of the draft file
    agreement: tuple[float, ...]  # share of right drafts by depth; may be empty


@dataclass(frozen=True, slots=True)
class Golden:
    """A prompt and the greedy answer of the exported program: [n] ids each.

    `logits` are those of the answer's ids, `second_logits` those of the next best ids.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    logits: tuple[float, ...]
    second_logits: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """`exact_rows` and `golden` are recorded where the exporter could run the program; 0 and () where it could not.

    `digest` is that of the file which was read.
    """

    name: str
    base_model: str
    license: str
    source_sha256: str
    tier: str
    target: str
    policy: str  # which keys a query sees
    kv_type: KvType  # of a conversation's K and V. "q8_0": 8 bits a value, one float32 scale for each head and position
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
    memory: Memory
    bos_text: str
    eos_text: str
    stop_tokens: tuple[int, ...]
    runtime: str  # the oldest ExecuTorch that runs it
    methods: Mapping[str, Method]
    operators: Mapping[str, str]  # name to schema
    chat: ChatPieces
    exporter: Mapping[str, str]  # package to version
    files: Mapping[str, BundleFile]
    golden: tuple[Golden, ...] = ()
    draft: BundleDraft | None = None
    digest: str = _NO_DIGEST

    @property
    def shape(self) -> ModelShape:
        return shape_of(self)


def read_manifest(path: Path) -> Manifest:
    """Raises ArtifactError for a file that cannot be read, was changed, or describes no bundle of this version."""
    try:
        with open_file(path) as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror or error}", hint=HINT) from error
    if len(data) > MAX_MANIFEST_BYTES:
        raise ArtifactError(f"{path} has more than {MAX_MANIFEST_BYTES} bytes", hint=HINT)
    fields = strict_json(data)
    if not isinstance(fields, dict):
        raise ArtifactError(f"{path} is not JSON, or no object", hint=HINT)
    table = Table(fields, str(path))
    try:
        version = table.integer("schema_version")
        known = f"is of schema {version}; this version reads schemas {SCHEMA_VERSION} and {DRAFTED_SCHEMA}"
        if version > DRAFTED_SCHEMA:
            raise ArtifactError(f"{path} {known}", hint="update edgeinfer")
        if version < SCHEMA_VERSION:
            raise ValueError(f"it {known}")
        digest = table.text("digest")
        check_seal(data.decode(), digest)
        return replace(_manifest(table, has_draft=version == DRAFTED_SCHEMA), digest=digest)
    except (ValueError, UsageError) as error:
        raise ArtifactError(f"{path}: {str(error).removeprefix(str(path)).lstrip(': ,')}", hint=HINT) from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    version = SCHEMA_VERSION if manifest.draft is None else DRAFTED_SCHEMA
    fields = {"schema_version": version, "digest": "", **asdict(replace(manifest, digest=_NO_DIGEST))}
    if manifest.draft is None:
        del fields["draft"]
    (folder / MANIFEST).write_text(sealed(json.dumps(fields, indent=1) + "\n"), encoding="utf-8")


def sealed(text: str) -> str:
    """`text` of a manifest with its digest."""
    digest = json.loads(text)["digest"]
    return text.replace(digest, digest_of(text, digest), 1)


def digest_of(text: str, digest: str) -> str:
    return "sha256:" + hashlib.sha256(text.replace(digest, _NO_DIGEST, 1).encode()).hexdigest()


def check_seal(text: str, digest: str) -> None:
    if digest_of(text, checked_digest(digest)) != digest:
        raise ValueError("it was changed: its digest is another one")


def checked_digest(digest: str) -> str:
    try:
        return check_digest(digest)
    except ArtifactError as error:
        raise ValueError(str(error)) from error


def strict_json(data: bytes) -> object:
    """The value of strict UTF-8 JSON without duplicate keys; None for anything else."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = dict(pairs)
        if len(keys) != len(pairs):
            raise ValueError("a key appears twice")
        return keys

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        value = json.loads(data.decode(), object_pairs_hook=unique, parse_constant=refuse)
        json.dumps(value, ensure_ascii=False).encode()  # lone surrogates
        return value
    except (ValueError, RecursionError):
        return None


def _manifest(table: Table, *, has_draft: bool) -> Manifest:
    manifest = Manifest(
        name=table.text("name"),
        base_model=table.text("base_model"),
        license=table.text("license"),
        source_sha256=checked_digest(table.text("source_sha256")),
        tier=table.text("tier"),
        target=_one_of(table, "target", TARGETS),
        policy=_one_of(table, "policy", POLICIES),
        kv_type=_one_of(table, "kv_type", KV_TYPES),
        architecture=table.text("architecture"),
        **{name: _positive(table, name) for name in _POSITIVE},
        exit_layer=_count(table, "exit_layer"),
        exact_rows=_count(table, "exact_rows"),
        memory=_memory(table.table("memory")),
        bos_text=table.text("bos_text"),
        eos_text=table.text("eos_text"),
        stop_tokens=token_ids(table, "stop_tokens"),
        runtime=table.text("runtime"),
        methods={name: _method(fields) for name, fields in table.all_named("methods").items()},
        operators=table.table("operators").all_texts(),
        chat=read_chat(table.table("chat")),
        exporter=table.table("exporter").all_texts(),
        files={name: _file(name, fields) for name, fields in table.all_named("files").items()},
        golden=tuple(map(_golden, table.tables("golden"))),
        draft=_draft(table.table("draft")) if has_draft else None,
        digest=_NO_DIGEST,
    )
    table.done()
    _check(manifest)
    return manifest


def _check(manifest: Manifest) -> None:
    """Raises ValueError where values do not fit together."""
    if manifest.exit_layer >= manifest.n_layers:
        raise ValueError(f"`exit_layer` is {manifest.exit_layer}; there are {manifest.n_layers} layers")
    if strange := [token for token in manifest.stop_tokens if token >= manifest.n_vocab]:
        raise ValueError(f"`stop_tokens` names {strange[0]}; there are {manifest.n_vocab} tokens")
    if manifest.draft is not None:
        _check_draft(manifest.draft, manifest)
    elif DRAFT_TOKENS in manifest.files:
        raise ValueError(f"`files` names {DRAFT_TOKENS}, and there is no `draft`")


def _check_draft(draft: BundleDraft, manifest: Manifest) -> None:
    n_layers, rising = manifest.n_layers, sorted(set(draft.taps))
    is_exit = 0 < draft.exit_layer < n_layers and not draft.taps
    is_feature = not draft.exit_layer and list(draft.taps) == rising and 0 < len(rising) <= MAX_TAPS
    is_feature = is_feature and rising[0] > 0 and rising[-1] <= n_layers
    if draft.kind == "exit" and not is_exit:
        raise ValueError(f"an exit draft needs an `exit_layer` from 1 to {n_layers - 1}, and no `taps`")
    if draft.kind == "feature" and not is_feature:
        raise ValueError(
            f"a feature draft needs 1 to {MAX_TAPS} rising `taps` from 1 to {n_layers}, and no `exit_layer`"
        )
    if draft.n_ranked > manifest.n_vocab:
        raise ValueError(f"`n_ranked` is {draft.n_ranked}; there are {manifest.n_vocab} tokens")
    if len(draft.agreement) > MAX_DEPTHS or not all(0 <= share <= 1 for share in draft.agreement):
        raise ValueError(f"`agreement` must hold at most {MAX_DEPTHS} shares from 0 to 1")
    if manifest.exit_layer:
        raise ValueError(f"`exit_layer` is {manifest.exit_layer}; it is 0 in a bundle with a `draft`")
    if DRAFT_TOKENS not in manifest.files or manifest.files[DRAFT_TOKENS].n_bytes != 4 * draft.n_ranked:
        raise ValueError(f"`files` must name {DRAFT_TOKENS} with {4 * draft.n_ranked} bytes")


_POSITIVE = ("n_layers", "n_heads", "n_kv_heads", "head_dim", "hidden", "n_ffn", "n_vocab", "limit")


def _one_of(table: Table, key: str, known: tuple[T, ...]) -> T:
    value = table.text(key)
    for one in known:
        if value == one:
            return one
    raise ValueError(f"`{key}` is {value[:40]!r}; this version runs {', '.join(known)}")


def _count(table: Table, key: str) -> int:
    value = table.integer(key)
    if value >= 1 << 31:
        raise ValueError(f"`{key}` is {value}")
    return value


def _positive(table: Table, key: str) -> int:
    value = _count(table, key)
    if value == 0:
        raise ValueError(f"`{key}` is 0")
    return value


def _memory(table: Table) -> Memory:
    memory = Memory(
        table.integer("packed_bytes"), table.integer("workspace_bytes"), table.integer("kv_bytes_per_position")
    )
    table.done()
    return memory


def _method(table: Table) -> Method:
    method = Method(tuple(table.texts("inputs")), tuple(table.texts("outputs")))
    table.done()
    return method


def _file(name: str, table: Table) -> BundleFile:
    if name not in KNOWN_FILES:
        raise ValueError(f"`files` names {name[:60]!r}; a bundle holds {', '.join(sorted(KNOWN_FILES))}")
    found = BundleFile(table.integer("n_bytes"), checked_digest(table.text("sha256")))
    table.done()
    return found


def _draft(table: Table) -> BundleDraft:
    draft = BundleDraft(
        kind=_one_of(table, "kind", DRAFT_KINDS),
        exit_layer=_count(table, "exit_layer"),
        taps=token_ids(table, "taps"),
        n_ranked=_positive(table, "n_ranked"),
        base_model=table.text("base_model"),
        license=table.text("license"),
        source_sha256=checked_digest(table.text("source_sha256")),
        agreement=tuple(table.numbers("agreement")),
    )
    table.done()
    return draft


def _golden(table: Table) -> Golden:
    golden = Golden(
        token_ids(table, "prompt"),
        token_ids(table, "answer"),
        tuple(table.numbers("logits")),
        tuple(table.numbers("second_logits")),
    )
    table.done()
    if not len(golden.answer) == len(golden.logits) == len(golden.second_logits):
        raise ValueError("`golden` has ids and logits of different numbers")
    return golden

"""Opens a phone bundle: its program in the engine, its tokenizer, its packed weights in the cache folder."""

from __future__ import annotations

from pathlib import Path

from edgeinfer.backends.executorch.build import built_library
from edgeinfer.backends.executorch.engine import Program
from edgeinfer.backends.executorch.model import ExecutorchModel
from edgeinfer.backends.executorch.taught import ExecutorchTaught
from edgeinfer.errors import ArtifactError
from edgeinfer.formats.bundle import Bundle, check_bundle, ranked_tokens
from edgeinfer.formats.hf_tokenizer import HfTokenizer
from edgeinfer.formats.manifest import PROGRAM, Manifest
from edgeinfer.types import KvType

__all__ = ["BundleTokenizer", "load_bundle", "packed_cache"]


class BundleTokenizer:
    """See protocols.Tokenizer. `tokenizer.json` gives the vocabulary, the manifest what ends a turn."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        inner = HfTokenizer(folder)
        self.n_vocab = inner.n_vocab
        self.chat_template = inner.chat_template
        self.control_texts = inner.control_texts
        self.stop_tokens = frozenset(manifest.stop_tokens)
        self.bos_text = manifest.bos_text
        self.eos_text = manifest.eos_text
        self.encode = inner.encode
        self.piece = inner.piece


def load_bundle(
    folder: Path, *, n_threads: int = 0, kv_type: KvType | None = None, drafts: bool = True
) -> ExecutorchModel:
    """`kv_type` is that of the manifest unless a test or a measurement wants another one. Without `drafts` the taught
    draft of the bundle is left out.

    Raises ArtifactError for a bundle whose files do not fit together, and EngineError as the engine does.
    """
    bundle = check_bundle(folder)
    kv_type = kv_type or bundle.manifest.kv_type
    program = Program(bundle.program, n_threads=n_threads, packed_cache=packed_cache(bundle), kv_type=kv_type)
    try:
        _check_shape(bundle, program)
        tokenizer = BundleTokenizer(folder, bundle.manifest)
        taught = ExecutorchTaught(program, ranked_tokens(bundle)) if bundle.manifest.draft and drafts else None
        return ExecutorchModel(program, tokenizer, exact_rows=bundle.manifest.exact_rows or None, taught=taught)
    except BaseException:
        program.close()
        raise


def packed_cache(bundle: Bundle) -> Path | None:
    """Where XNNPACK keeps this program's packed weights: they differ with the program and with the engine."""
    digest = bundle.manifest.files[PROGRAM].sha256.removeprefix("sha256:")
    path = built_library().parent / f"{digest[:32]}.packed"
    return path if len(str(path).encode()) <= 255 else None


def _check_shape(bundle: Bundle, program: Program) -> None:
    manifest, info, draft = bundle.manifest, program.info, bundle.manifest.draft
    names = ("n_layers", "n_kv_heads", "head_dim", "hidden", "n_vocab", "limit", "exit_layer")
    declared = {name: getattr(manifest, name) for name in names} | {
        "draft_exit_layer": draft.exit_layer if draft else 0,
        "draft_n_taps": len(draft.taps) if draft else 0,
        "draft_n_ranked": draft.n_ranked if draft else 0,
    }
    for name, value in declared.items():
        if value != getattr(info, name):
            raise ArtifactError(
                f"{bundle.path}: the manifest says {name} {value}, the program {getattr(info, name)}",
                hint="export the model again",
            )

"""How the suite loads the tiny model on each backend. A new backend adds one `Subject`.

`tolerance` bounds the difference between logits of one row computed in two ways, where the backend does not
promise equality (`Model.exact_rows`). `oracle_tolerance` bounds the difference from the float64 oracle. The logits
of the tiny model have a standard deviation of 3; one key too many or too few moves some of them by 5.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import edgeinfer
from edgeinfer import backends
from edgeinfer.plan import Request
from edgeinfer.protocols import Model
from edgeinfer.types import KvType
from edgeinfer.window import WindowPolicy
from tests.executorch.exported import missing as missing_executorch
from tests.tiny_draft import draft_beside, write_tiny_draft
from tests.tiny_gguf import Tiny, write_tiny

LLAMA = Tiny(tier="F32")
LLAMA_Q4 = Tiny(tier="Q4_0", seed=2)
LLAMA_Q4_POSITIVE = Tiny(tier="Q4_0", seed=2, positive_scales=True)  # exported as it is
QWEN = Tiny(architecture="qwen3", tier="Q8_0", seed=3, exit_layer=2)

POLICY = WindowPolicy(window=64, sink=8, block=16, limit=128)
"""Wraps after 64 positions, evicts every 16, re-anchors at 128."""


@dataclass(frozen=True)
class Subject:
    name: str
    tiny: Tiny
    open: Callable[[Path], Model]
    kv_type: KvType
    oracle_tolerance: float
    tolerance: float = 0.0
    pad_slots: int = 1  # the engine rounds the slots of a cache up to a multiple of this
    kv_group: tuple[int, int] = (32, 2)  # quantized K/V: values that share a scale, bytes of that scale
    taps: tuple[int, ...] = ()  # layers tapped by a feature draft beside the model; empty: no such draft
    exit_draft: int = 0  # layers before an exit draft beside the model; 0: no such draft
    draft_tolerance: float = 0.0  # bounds the difference of the draft's rows from the oracle

    @property
    def has_draft(self) -> bool:
        return bool(self.taps or self.exit_draft)


def reference(kv_type: KvType, *, taught: bool = False) -> Callable[[Path], Model]:
    def load(path: Path) -> Model:
        from edgeinfer.backends.reference import load_gguf

        return load_gguf(path, kv_type=kv_type, exit_layer=2, draft=draft_beside(path) if taught else None)

    return load


def gguf(
    kv_type: KvType, *, drafts: Literal["", "early-exit", "taught"] = "", n_threads: int = 1, n_caches: int = 1
) -> Callable[[Path], Model]:
    def load(path: Path) -> Model:
        from edgeinfer.backends.gguf import llama
        from edgeinfer.backends.gguf.model import EngineSettings, GgufModel
        from edgeinfer.formats.draft_file import read_draft_for
        from edgeinfer.formats.gguf_header import read_header
        from edgeinfer.formats.shape import shape_from_gguf

        settings = EngineSettings(n_threads, kv_type)
        model = GgufModel(llama.load(path), read_header(path), settings, n_caches=n_caches, policy=POLICY)
        if drafts == "early-exit":
            model.draft_with(int(str(read_header(path).metadata["edgeinfer.exit_layer"])), path)
        if drafts == "taught":
            model.draft_by_file(read_draft_for(draft_beside(path), shape_from_gguf(read_header(path))), path)
        return model

    return load


def missing_gguf() -> str:
    from edgeinfer.backends.gguf.probe import library_versions

    try:
        library_versions()
    except (OSError, ImportError, AttributeError, ValueError) as error:
        return str(error)
    return ""


def mlx(kv_type: KvType, *, n_caches: int = 1, taught: bool = False) -> Callable[[Path], Model]:
    def load(path: Path) -> Model:
        import mlx.core as mx

        from edgeinfer.backends.mlx.model import KV_BITS, MlxModel
        from edgeinfer.backends.mlx.weights import load_gguf
        from edgeinfer.backends.reserve import PlannedCaches
        from edgeinfer.formats.draft_file import read_draft_for
        from edgeinfer.formats.gguf_header import read_header
        from edgeinfer.formats.gguf_tokenizer import GgufTokenizer
        from edgeinfer.formats.shape import shape_from_gguf

        header = read_header(path)
        module, _ = load_gguf(path, header, mx.float32)
        exit_layer = int(str(header.metadata["edgeinfer.exit_layer"]))
        return MlxModel(
            module,
            GgufTokenizer(header),
            exit_layer=exit_layer,
            kv_bits=KV_BITS[kv_type],
            planned=PlannedCaches(n_caches, POLICY),
            draft=read_draft_for(draft_beside(path), shape_from_gguf(header)) if taught else None,
        )

    return load


def missing_mlx() -> str:
    missing = [name for name in ("mlx", "mlx_lm") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} not installed" if missing else ""


def executorch(tier: str, kv_type: KvType = "f32") -> Callable[[Path], Model]:
    def load(path: Path) -> Model:
        from edgeinfer.backends.executorch.bundle import load_bundle
        from tests.executorch.exported import bundle_of, with_kv_type

        bundle = bundle_of(path, tier)
        return load_bundle(bundle if kv_type == "f32" else with_kv_type(bundle, kv_type), n_threads=1)

    return load


several_conversations = gguf("q8_0/f16", n_caches=4)
as_chat_opens_it = gguf("q8_0/f16", drafts="early-exit", n_threads=2)
STREAMS = Subject("gguf-streams-q4_0", LLAMA_Q4, several_conversations, "q8_0/f16", 2.5, tolerance=0.5, pad_slots=256)


def toy(path: Path) -> Model:
    """Loads from a plan. conftest.py adds the toy backend to the list of backends."""
    plan = edgeinfer.choose(Request(model=str(path), backend="toy", context=512, force=True), offline=True)
    return backends.get(plan.backend).load(plan, path)


TAUGHT = Subject(
    "reference-feature", LLAMA, reference("f32", taught=True), "f32", 1e-3, taps=(1, 2, 4), draft_tolerance=1e-3
)
TAUGHT_GGUF = Subject(
    "gguf-feature", LLAMA, gguf("f16", drafts="taught"), "f16", 0.5, tolerance=0.2, pad_slots=256, taps=(1, 2, 3),
    draft_tolerance=0.8,
)  # fmt: skip
TAUGHT_STREAMS = Subject(
    "gguf-streams-feature", LLAMA, gguf("f16", drafts="taught", n_caches=4), "f16", 0.5, tolerance=0.2, pad_slots=256,
    taps=(1, 2, 3), draft_tolerance=0.8,
)  # fmt: skip
EXIT_STREAMS = Subject(
    "gguf-streams-exit-q4_0", LLAMA_Q4, gguf("q8_0/f16", drafts="early-exit", n_caches=4), "q8_0/f16", 2.5,
    tolerance=0.5, pad_slots=256,
)  # fmt: skip
EXIT_DRAFT = Subject(
    "reference-exit", LLAMA, reference("f32", taught=True), "f32", 1e-3, exit_draft=2, draft_tolerance=1e-3
)
EXIT_DRAFT_GGUF = Subject(
    "gguf-exit-draft", LLAMA, gguf("f16", drafts="taught"), "f16", 0.5, tolerance=0.2, pad_slots=256, exit_draft=2,
    draft_tolerance=1.5,
)  # fmt: skip

SUBJECTS = (
    Subject("reference-llama", LLAMA, reference("f32"), "f32", oracle_tolerance=1e-3),
    Subject("reference-qwen3", QWEN, reference("f16"), "f16", oracle_tolerance=0.1),
    Subject("toy-llama", LLAMA, toy, "f32", oracle_tolerance=1e-3),
    TAUGHT,
    Subject(
        "reference-feature-qwen3", QWEN, reference("f16", taught=True), "f16", 0.1, taps=(1, 4), draft_tolerance=0.1
    ),
    EXIT_DRAFT,
    Subject("reference-exit-qwen3", QWEN, reference("f16", taught=True), "f16", 0.1, exit_draft=1, draft_tolerance=0.1),
)
GGUF_SUBJECTS = (
    Subject("gguf-llama", LLAMA, gguf("f16"), "f16", oracle_tolerance=0.5, tolerance=0.2, pad_slots=256),
    Subject("gguf-qwen3", QWEN, gguf("f16"), "f16", oracle_tolerance=1.2, tolerance=0.3, pad_slots=256),
    Subject("gguf-exit-qwen3", QWEN, gguf("f16", drafts="early-exit"), "f16", 1.2, tolerance=0.3, pad_slots=256),
    Subject("gguf-exit-q4_0", LLAMA_Q4, as_chat_opens_it, "q8_0/f16", 2.5, tolerance=0.5, pad_slots=256),
    Subject("gguf-streams-llama", LLAMA, gguf("f16", n_caches=4), "f16", 0.5, tolerance=0.2, pad_slots=256),
    STREAMS,
    EXIT_STREAMS,
    TAUGHT_STREAMS,
    Subject(
        "gguf-streams-exit-draft", LLAMA, gguf("f16", drafts="taught", n_caches=4), "f16", 0.5, tolerance=0.2,
        pad_slots=256, exit_draft=2, draft_tolerance=1.5,
    ),
    TAUGHT_GGUF,
    EXIT_DRAFT_GGUF,
    Subject(
        "gguf-exit-draft-q4_0", LLAMA_Q4, gguf("q8_0/f16", drafts="taught", n_threads=2), "q8_0/f16", 2.5,
        tolerance=0.5, pad_slots=256, exit_draft=1, draft_tolerance=3.0,
    ),
    Subject(
        "gguf-feature-q4_0", LLAMA_Q4, gguf("q8_0/f16", drafts="taught", n_threads=2), "q8_0/f16", 2.5, tolerance=0.5,
        pad_slots=256, taps=(2, 3), draft_tolerance=2.5,
    ),
    Subject(
        "gguf-feature-qwen3", QWEN, gguf("f16", drafts="taught"), "f16", 1.2, tolerance=0.3, pad_slots=256, taps=(3,),
        draft_tolerance=1.2,
    ),
)  # fmt: skip
MLX_PACKED = Subject("mlx-packed-llama", LLAMA, mlx("f32", n_caches=4), "f32", oracle_tolerance=5e-3, tolerance=2e-3)
MLX_TAUGHT = Subject(
    "mlx-feature", LLAMA, mlx("f32", taught=True, n_caches=4), "f32", 5e-3, tolerance=2e-3, taps=(1, 2, 4),
    draft_tolerance=5e-3,
)  # fmt: skip
MLX_EXIT_DRAFT = Subject(
    "mlx-exit-draft", LLAMA, mlx("f32", taught=True, n_caches=4), "f32", 5e-3, tolerance=2e-3, exit_draft=2,
    draft_tolerance=5e-3,
)  # fmt: skip
MLX_SUBJECTS = (
    Subject("mlx-llama", LLAMA, mlx("f32"), "f32", oracle_tolerance=5e-3, tolerance=2e-3),
    Subject("mlx-qwen3-q8", QWEN, mlx("q8_0"), "q8_0", oracle_tolerance=1.2, tolerance=2e-3, kv_group=(64, 4)),
    MLX_PACKED,
    MLX_TAUGHT,
    MLX_EXIT_DRAFT,
    Subject(
        "mlx-feature-qwen3-q8", QWEN, mlx("q8_0", taught=True, n_caches=4), "q8_0", 1.2, tolerance=2e-3,
        kv_group=(64, 4), taps=(1, 4), draft_tolerance=1.5,
    ),
    Subject(
        "mlx-exit-draft-qwen3-q8", QWEN, mlx("q8_0", taught=True), "q8_0", 1.2, tolerance=2e-3, kv_group=(64, 4),
        exit_draft=1, draft_tolerance=1.5,
    ),
)  # fmt: skip
EXECUTORCH_FEATURE = Subject(
    "executorch-feature", LLAMA, executorch("fp32"), "f32", 1e-3, taps=(1, 2, 4), draft_tolerance=1e-3
)
EXECUTORCH_EXIT_DRAFT = Subject(
    "executorch-exit-draft", LLAMA, executorch("fp32"), "f32", 1e-3, exit_draft=2, draft_tolerance=1e-3
)
EXECUTORCH_SUBJECTS = (
    EXECUTORCH_FEATURE,
    EXECUTORCH_EXIT_DRAFT,
    Subject("executorch-llama-fp32", LLAMA, executorch("fp32"), "f32", oracle_tolerance=1e-3),
    Subject("executorch-qwen3-8da8w", QWEN, executorch("8da8w"), "f32", oracle_tolerance=1.2),
    Subject("executorch-llama-f16", LLAMA, executorch("fp32", "f16"), "f16", oracle_tolerance=0.1),
    Subject("executorch-llama-q8", LLAMA, executorch("fp32", "q8_0"), "q8_0", oracle_tolerance=1.2, kv_group=(32, 4)),
    Subject("executorch-q4_0-8da4w", LLAMA_Q4_POSITIVE, executorch("8da4w"), "f32", oracle_tolerance=2.5),
)  # fmt: skip


@cache
def available() -> tuple[Subject, ...]:
    found = SUBJECTS + (() if missing_gguf() else GGUF_SUBJECTS)
    found += () if missing_mlx() else MLX_SUBJECTS
    return found + (() if missing_executorch() else EXECUTORCH_SUBJECTS)


def write_model(subject: Subject, folder: Path) -> Path:
    path = folder / f"{subject.tiny.architecture}-{subject.tiny.tier}.gguf"
    path = path if path.exists() else write_tiny(path, subject.tiny)
    if subject.has_draft:
        write_tiny_draft(draft_beside(path), path, subject.taps, exit_layer=subject.exit_draft)
    return path

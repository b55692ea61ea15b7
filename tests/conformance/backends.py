"""How the suite loads the tiny model on each backend. A new backend adds one `Subject`.

`tolerance` bounds |logit difference| between a row computed in one way and in another, where the backend does not
promise equality (`Model.exact_rows`), and `oracle_tolerance` that to the float64 oracle. The tiny model's logits have a
standard deviation of 3; one key too many or too few moves some of them by more than 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgeinfer.protocols import Model
from edgeinfer.types import KvType
from edgeinfer.window import WindowPolicy
from tests.tiny_gguf import Tiny, write_tiny

LLAMA = Tiny(tier="F32")
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


def reference(kv_type: KvType) -> Callable[[Path], Model]:
    def load(path: Path) -> Model:
        from edgeinfer.backends.reference import load_gguf

        return load_gguf(path, kv_type=kv_type)

    return load


def gguf(kv_type: KvType) -> Callable[[Path], Model]:
    def load(path: Path) -> Model:
        from edgeinfer.backends.gguf import llama
        from edgeinfer.backends.gguf.model import EngineSettings, GgufModel
        from edgeinfer.formats.gguf_header import read_header

        return GgufModel(llama.load(path), read_header(path), EngineSettings(1, kv_type))

    return load


def missing_gguf() -> str:
    from edgeinfer.backends.gguf.probe import library_versions

    try:
        library_versions()
    except (OSError, ImportError, AttributeError, ValueError) as error:
        return str(error)
    return ""


SUBJECTS = (
    Subject("reference-llama", LLAMA, reference("f32"), "f32", oracle_tolerance=1e-3),
    Subject("reference-qwen3", QWEN, reference("f16"), "f16", oracle_tolerance=0.1),
)
GGUF_SUBJECTS = (
    Subject("gguf-llama", LLAMA, gguf("f16"), "f16", oracle_tolerance=0.5, tolerance=0.2, pad_slots=256),
    Subject("gguf-qwen3", QWEN, gguf("f16"), "f16", oracle_tolerance=1.2, tolerance=0.3, pad_slots=256),
)


@cache
def available() -> tuple[Subject, ...]:
    return SUBJECTS + (() if missing_gguf() else GGUF_SUBJECTS)


def write_model(subject: Subject, folder: Path) -> Path:
    path = folder / f"{subject.tiny.architecture}-{subject.tiny.tier}.gguf"
    return path if path.exists() else write_tiny(path, subject.tiny)

"""A GGUF model in llama.cpp: what its file says, and the caches that are open on it."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from edgeinfer.backends.engine_errors import maps_engine_errors
from edgeinfer.backends.gguf.cache import GgufCache
from edgeinfer.backends.gguf.exit import self_test_cache
from edgeinfer.backends.gguf.exit.self_test import POLICY as SELF_TEST_POLICY
from edgeinfer.backends.gguf.exit.self_test import self_test
from edgeinfer.backends.gguf.exit.support import ExitSupport, Refused, find_support
from edgeinfer.backends.gguf.llama import KV_TYPES, ContextOptions, LoadedModel, padded
from edgeinfer.backends.gguf.probe import library_versions
from edgeinfer.backends.gguf.tokenizer import GgufTokenizer
from edgeinfer.backends.rounds import run_in_turn
from edgeinfer.errors import EngineFailed
from edgeinfer.formats.gguf_header import GgufHeader
from edgeinfer.formats.shape import shape_from_gguf
from edgeinfer.plan.estimate import PREFILL_ROWS
from edgeinfer.protocols import Ask, Row
from edgeinfer.shape import LayerKv
from edgeinfer.types import KvType, of_k_and_v
from edgeinfer.window import WindowPolicy

N_OUTPUTS: Final = 16  # rows with logits of one decode; a verify of more runs in parts

# Types whose rows round alike, alone and in a batch of so many (x86 kernels of ggml 0.25, flash attention on).
_EXACT_ROWS: Final[tuple[tuple[frozenset[str], int], ...]] = (
    (frozenset({"Q8_0"}), 16),
    (frozenset({"Q4_0"}), 16),
    (frozenset({"Q4_0", "Q6_K"}), 5),
    (frozenset({"Q4_K", "Q6_K"}), 3),
)
# With several threads and both K and V in one of these types, ggml splits the keys of a single row among them (from
# 512 cells on, ops.cpp, use_split_kv_path), and so adds them up in another order than those of several rows.
_SPLIT_KV: Final[frozenset[KvType]] = frozenset({"f16", "f32"})
_REPACKED_X86: Final = frozenset({"Q4_0", "Q4_K", "Q2_K", "IQ4_NL", "MXFP4"})  # ggml-cpu/repack.cpp, AVX2
_REPACKED_ARM: Final = _REPACKED_X86 | {"Q5_K", "Q6_K", "Q8_0"}


def matrix_bytes(header: GgufHeader) -> Mapping[str, int]:
    """Bytes of the matrices (tensors of two axes or more) of each type."""
    counted: Counter[str] = Counter()
    for tensor in header.tensors:
        if len(tensor.shape) > 1:
            counted[tensor.type.name] += tensor.n_bytes
    return counted


def exact_rows(header: GgufHeader, settings: EngineSettings) -> int | None:
    """Model.exact_rows for this file, opened like this, on this processor."""
    x86 = platform.machine().lower() in {"x86_64", "amd64"}
    split = settings.kv_type in _SPLIT_KV and settings.n_threads > 1
    if not x86 or split or settings.n_gpu_layers:
        return None
    types = set(matrix_bytes(header))
    return next((rows for exact_types, rows in _EXACT_ROWS if types <= exact_types), None)


def is_repacked(header: GgufHeader) -> bool:
    """Whether llama.cpp copies tensors into another layout: then a mapped file would be in memory twice."""
    arm = platform.machine().lower() in {"arm64", "aarch64"}
    return bool(set(matrix_bytes(header)) & (_REPACKED_ARM if arm else _REPACKED_X86))


def kv_bytes(groups: Sequence[LayerKv], kv_type: KvType, slots: int) -> int:
    """Bytes of K and V that a context of `slots` holds; layers with a window of their own hold that and one prefill."""
    kinds = [KV_TYPES[kind] for kind in of_k_and_v(kv_type)]
    total = 0
    for group in groups:
        cells = min(padded(slots), padded(group.window + PREFILL_ROWS)) if group.window else padded(slots)
        n_values = group.n_kv_heads * group.head_dim
        row_bytes = sum(n_values // per_block * block_bytes for _, per_block, block_bytes in kinds)
        total += cells * group.n_layers * row_bytes
    return total


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How contexts of a model are opened."""

    n_threads: int
    kv_type: KvType
    n_gpu_layers: int = 0

    def options(self, policy: WindowPolicy) -> ContextOptions:
        return ContextOptions(
            slots=policy.slots,
            n_batch=PREFILL_ROWS,
            n_outputs=N_OUTPUTS,
            n_threads=self.n_threads,
            kv_type=self.kv_type,
            n_gpu_layers=self.n_gpu_layers,
        )


@maps_engine_errors("llama.cpp")
class GgufModel:
    """See protocols.Model. Drafts after `draft_with`; `note` says why it does not when it was asked to, else ""."""

    def __init__(self, loaded: LoadedModel, header: GgufHeader, settings: EngineSettings) -> None:
        self.tokenizer = GgufTokenizer(loaded)
        self.settings = settings
        self.exact_rows = exact_rows(header, settings)
        self.loaded = loaded
        self._kv = shape_from_gguf(header).kv
        self._caches: list[GgufCache] = []
        self._exit: ExitSupport | None = None
        self.note = ""
        self.n_caches = 1

    @property
    def n_threads(self) -> int:
        return self.settings.n_threads

    @property
    def exit_layer(self) -> int | None:
        return self._exit.exit_layer if self._exit is not None else None

    def draft_with(self, exit_layer: int, path: Path) -> None:
        """Let new caches draft with layers [0, `exit_layer`), once a self-test has shown that this changes no row.

        The test takes about twelve tokens; its outcome is kept for the file at `path` and this engine.
        """
        found = find_support(self.loaded, exit_layer, self.settings.options(SELF_TEST_POLICY), self._kv)
        if isinstance(found, Refused):
            self.note = f"no drafts from early layers: {found.reason}"
            return
        versions = tuple(library_versions().values())
        tested = self_test_cache.TestedModel(path, exit_layer, (repr(self.settings),), versions)
        self._exit = found
        wrong = self_test_cache.load(tested)
        try:
            if wrong is None:
                wrong = self._self_test()
                self_test_cache.store(tested, wrong)
        except EngineFailed as error:  # perhaps for want of memory: tried again next time
            wrong = str(error)
        if wrong:
            self._exit = None
            self.note = f"no drafts from early layers: the self-test failed, {wrong}"

    def _self_test(self) -> str:
        cache = self.new_cache(SELF_TEST_POLICY)
        try:
            return self_test(cache, self.tokenizer.n_vocab)
        finally:
            cache.close()

    def run(self, asks: Sequence[Ask]) -> Sequence[Sequence[Row]]:
        return run_in_turn(asks)

    def new_cache(self, policy: WindowPolicy) -> GgufCache:
        n_bytes = kv_bytes(self._kv, self.settings.kv_type, policy.slots)
        options = self.settings.options(policy)
        if self._exit is None:
            cache = GgufCache(self.loaded, options, policy, n_bytes)
        else:  # several rows run in a context of their own
            cache = GgufCache(self.loaded, replace(options, n_outputs=1), policy, n_bytes)
            try:
                self._exit.attach(cache, self.loaded, options)
            except EngineFailed:
                cache.close()
                raise
        self._caches = [open_one for open_one in self._caches if open_one.is_open]
        self._caches.append(cache)
        return cache

    def close(self) -> None:
        for cache in self._caches:
            cache.close()
        self.loaded.close()

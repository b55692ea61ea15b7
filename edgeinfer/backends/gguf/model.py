"""A GGUF model in llama.cpp: what its file allows, and its open caches."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgeinfer.backends.engine_errors import maps_engine_errors
from edgeinfer.backends.gguf import facts
from edgeinfer.backends.gguf.cache import GgufCache
from edgeinfer.backends.gguf.draft.support import TaughtSupport
from edgeinfer.backends.gguf.exit import self_test_cache
from edgeinfer.backends.gguf.exit.self_test import POLICY as SELF_TEST_POLICY
from edgeinfer.backends.gguf.exit.self_test import self_test
from edgeinfer.backends.gguf.exit.support import ExitSupport, Refused, find_support
from edgeinfer.backends.gguf.llama import ContextOptions, LlamaModel
from edgeinfer.backends.gguf.probe import library_versions
from edgeinfer.backends.gguf.streams import Streams
from edgeinfer.backends.gguf.threads import end_team
from edgeinfer.backends.gguf.tokenizer import LlamaTokenizer
from edgeinfer.backends.rounds import check_tokens, run_in_turn
from edgeinfer.errors import ArtifactError, EngineError
from edgeinfer.formats.draft_file import DraftFile
from edgeinfer.formats.gguf_header import GgufHeader
from edgeinfer.formats.shape import read_by_type, shape_from_gguf
from edgeinfer.protocols import Ask, Row
from edgeinfer.types import DraftsWith, KvType
from edgeinfer.window import WindowPolicy


def matrix_bytes(header: GgufHeader) -> Mapping[str, int]:
    """Bytes of the matrices (tensors of two axes or more) of each type."""
    counted: Counter[str] = Counter()
    for tensor in header.tensors:
        if len(tensor.shape) > 1:
            counted[tensor.type.name] += tensor.n_bytes
    return counted


def exact_rows(header: GgufHeader, settings: EngineSettings) -> int | None:
    """Model.exact_rows for this file, opened like this, on this processor."""
    if not _may_be_exact(settings):
        return None
    return facts.exact_rows_of(read_by_type(header).keys(), settings.exact_types - _not_repacked(header))


def rounding_note(header: GgufHeader, settings: EngineSettings, *, no_own_rows: str = "") -> str:
    """A note for files whose tensor types keep several rows from equaling single ones; "" for others.

    `no_own_rows`: why the F16 kernel of kernels/ is not in use.
    """
    types = read_by_type(header)
    if not _may_be_exact(settings) or exact_rows(header, settings):
        return ""
    why = f" (edgeinfer's own F16 rows are not in use: {no_own_rows})" if no_own_rows else ""
    return (
        f"llama.cpp rounds several rows of this file's tensors ({', '.join(types)}) differently from a single one{why}"
        ": with drafts, a token may differ where the best two are nearly tied. `--speculation off` is exactly plain "
        "decoding, without the gain on repeated text"
    )


def _not_repacked(header: GgufHeader) -> frozenset[str]:
    """Types that edgeinfer's kernels multiply only repacked, and of which ggml leaves a matrix as it is."""
    odd = any(one.type.name == "Q4_K" and len(one.shape) > 1 and one.shape[1] % 8 for one in header.tensors)
    return frozenset({"Q4_K"}) if odd else frozenset()


def _may_be_exact(settings: EngineSettings) -> bool:
    x86 = platform.machine().lower() in {"x86_64", "amd64"}
    split = facts.splits_keys(settings.kv_type) and settings.n_threads > 1
    return x86 and not split and not settings.n_gpu_layers


def is_repacked(header: GgufHeader) -> bool:
    """Whether llama.cpp copies tensors into another layout: then a mapped file would be in memory twice."""
    return facts.is_repacked(matrix_bytes(header).keys(), arm=platform.machine().lower() in {"arm64", "aarch64"})


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How contexts of a model are opened."""

    n_threads: int
    kv_type: KvType
    n_gpu_layers: int = 0
    exact_types: frozenset[str] = frozenset()  # of matrices, by kernels/ or AMX; see facts.exact_rows_of

    def options(self, policy: WindowPolicy) -> ContextOptions:
        return ContextOptions(
            slots=policy.slots,
            n_batch=facts.PREFILL_ROWS,
            n_outputs=facts.N_OUTPUTS,
            n_threads=self.n_threads,
            kv_type=self.kv_type,
            n_gpu_layers=self.n_gpu_layers,
        )


@maps_engine_errors("llama.cpp")
class GgufModel:
    """See protocols.Model. It drafts after `draft_with`; if it cannot, `note` says why.

    With `n_caches` over 1, that many caches of `policy` share one context, whose memory is allocated with the model. A
    cache of another policy has a context of its own.
    """

    def __init__(
        self,
        loaded: LlamaModel,
        header: GgufHeader,
        settings: EngineSettings,
        *,
        n_caches: int = 1,
        policy: WindowPolicy | None = None,
    ) -> None:
        self.tokenizer = LlamaTokenizer(loaded)
        self.settings = settings
        self.exact_rows = exact_rows(header, settings)
        self.loaded = loaded
        self._header = header
        self._shape = shape_from_gguf(header)
        self._alone: list[GgufCache] = []  # each in a context of its own
        self._exit: ExitSupport | None = None
        self._taught: TaughtSupport | None = None
        self.note = ""
        self.n_caches = n_caches
        self._policy = policy
        self._streams: Streams | None = None
        if n_caches > 1 and policy is not None:
            self._streams = self._new_streams(policy, n_caches)

    @property
    def n_threads(self) -> int:
        return self.settings.n_threads

    @property
    def exit_layer(self) -> int | None:
        return self._exit.exit_layer if self._exit is not None else None

    @property
    def drafts_with(self) -> DraftsWith:
        if self._taught is not None:
            return self._taught.kind
        return "early-exit" if self._exit is not None else ""

    def draft_by_file(self, draft: DraftFile, path: Path) -> None:
        """Lets new caches draft with a draft that was taught to the model in `path`.

        `note` says why they do not: a draft must not keep its model from running.
        """
        try:
            self._taught = TaughtSupport(draft, self._header, path)
            self._new_streams(SELF_TEST_POLICY, 1).close()
            if self._streams is not None:
                self._let_draft(self._streams)
        except (ArtifactError, EngineError) as error:
            if self._taught is not None:
                self._taught.close()
            self._taught = None
            self.note = f"no drafts from the taught layer: {error}"

    def draft_with(self, exit_layer: int, path: Path) -> None:
        """Let new caches draft with layers [0, `exit_layer`), once a self-test has shown that this changes no row.

        The test takes about twelve tokens; its outcome is kept for the file at `path` and this engine.
        """
        found = find_support(self.loaded, exit_layer, self.settings.options(SELF_TEST_POLICY), self._shape.kv)
        if isinstance(found, Refused):
            self.note = f"no drafts from early layers: {found.reason}"
            return
        versions = tuple(library_versions().values())
        how = "alone" if self._streams is None else "in streams"
        tested = self_test_cache.TestedModel(path, exit_layer, (repr(self.settings), how), versions)
        self._exit = found
        wrong = self_test_cache.load(tested)
        try:
            if wrong is None:
                wrong = self._self_test()
                self_test_cache.store(tested, wrong)
            if not wrong and self._streams is not None:
                self._let_draft(self._streams)
        except EngineError as error:  # perhaps memory was short: try again next time
            wrong = str(error)
        if wrong:
            self._exit = None
            self.note = f"no drafts from early layers: the self-test failed, {wrong}"

    def _self_test(self) -> str:
        """In the last of two streams if the model has several, else alone."""
        n_streams = 1 if self._streams is None else 2
        streams = self._new_streams(SELF_TEST_POLICY, n_streams)
        try:
            caches = [streams.new_cache(SELF_TEST_POLICY, 0) for _ in range(n_streams)]
            return self_test(caches[-1], self.tokenizer.n_vocab)
        finally:
            streams.close()

    def run(self, asks: Sequence[Ask]) -> Sequence[Sequence[Row]]:
        check_tokens(asks, self.loaded.n_vocab)
        if self._streams is None or len(asks) == 1:
            return run_in_turn(asks)
        return self._streams.run(asks)

    def rest(self) -> None:
        end_team()

    def new_cache(self, policy: WindowPolicy) -> GgufCache:
        n_bytes = facts.FACTS.kv_bytes(self._shape, policy, self.settings.kv_type)
        if self._streams is not None and policy == self._policy:
            return self._streams.new_cache(policy, n_bytes)
        cache = self._new_streams(policy, 1).new_cache(policy, n_bytes)
        self._alone = [open_one for open_one in self._alone if open_one.is_open]
        self._alone.append(cache)
        return cache

    def _new_streams(self, policy: WindowPolicy, n: int) -> Streams:
        options = replace(self.settings.options(policy), n_streams=n)
        if n == 1 and self._exit is not None and self._taught is None:
            options = replace(options, n_outputs=1)  # several rows run in a separate context
        streams = Streams(self.loaded, options, n_together=self.exact_rows)
        try:
            self._let_draft(streams)
        except BaseException:
            streams.close()
            raise
        return streams

    def _let_draft(self, streams: Streams) -> None:
        """Raises EngineError when the contexts for it cannot be opened."""
        support = self._taught or self._exit
        if support is not None:
            streams.draft_by(support.open(self.loaded, streams.options, streams.context))

    def close(self) -> None:
        for cache in self._alone:
            cache.close()
        if self._streams is not None:
            self._streams.close()
        if self._taught is not None:
            self._taught.close()
        self.loaded.close()

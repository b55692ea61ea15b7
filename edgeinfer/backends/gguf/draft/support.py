"""Opens a taught draft with a llama.cpp model, and lets the model's caches draft with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

from edgeinfer.backends.gguf.cache import GgufCache
from edgeinfer.backends.gguf.draft.kept_layers import load_layer
from edgeinfer.backends.gguf.draft.layer import DraftStreams, GgufDraftLayer
from edgeinfer.backends.gguf.draft.round import TaughtRound
from edgeinfer.backends.gguf.draft.taps import Taps
from edgeinfer.backends.gguf.facts import DRAFTED_ARCHITECTURES
from edgeinfer.backends.gguf.llama import Context, ContextOptions, LlamaModel
from edgeinfer.backends.taught import ExitDrafts, FeatureDrafts, FeatureInputs, RankedRow, TapTable, TaughtDrafts
from edgeinfer.errors import ArtifactError
from edgeinfer.formats.draft_file import DraftFile
from edgeinfer.formats.gguf_header import GgufHeader
from edgeinfer.formats.gguf_rows import TensorRows, read_vector
from edgeinfer.protocols import TokenLike, as_id

if TYPE_CHECKING:
    from edgeinfer.backends.gguf.llama import Floats
    from edgeinfer.types import Logits

__all__ = ["TaughtSupport"]


class TaughtSupport:
    """Shared by the conversations of a model. `close` frees the draft's weights, after its caches."""

    def __init__(self, draft: DraftFile, header: GgufHeader, path: Path) -> None:
        """`header` is that of the model's one file at `path`. Raises ArtifactError for a model that cannot use this
        draft."""
        if draft.shape.architecture not in DRAFTED_ARCHITECTURES[draft.kind] or header.parts:
            raise ArtifactError(f"{path.name}: llama.cpp runs no {draft.kind} draft for it", hint="leave --draft out")
        self.kind = draft.kind
        self._taps, self._ranked = draft.taps, draft.ranked_tokens
        self._embedding = TensorRows(path, header.by_name["token_embd.weight"])
        self._inputs = FeatureInputs(draft, self._embed) if draft.kind == "feature" else None
        self._output_norm: Floats = read_vector(path, header.by_name["output_norm.weight"])
        self._layer = load_layer(draft, header, path)
        # A thread of BLAS spins for milliseconds after a product, on a core that llama.cpp's threads need.
        self._one_blas_thread = threadpool_limits(1, user_api="blas")

    def open(self, model: LlamaModel, options: ContextOptions, context: Context) -> TaughtDrafting:
        """What lets the caches of `context` draft; it was opened with `options`.

        Raises EngineError where the draft's own context cannot be opened, or the states be tapped.
        """
        taps = Taps(context, self._taps, model.n_layers, self._output_norm) if self._inputs else None
        return TaughtDrafting(self, DraftStreams(self._layer, options), taps, context)

    def new_drafts(self, layer: GgufDraftLayer, n_vocab: int) -> TaughtDrafts[Floats]:
        """The drafts of one conversation."""

        def row(logits: Logits) -> RankedRow:
            return RankedRow(logits, self._ranked, n_vocab)

        if self._inputs is None:
            return ExitDrafts(layer, self._embed, row)
        table = TapTable(self._inputs.n_taps * self._inputs.hidden)
        return FeatureDrafts(self._inputs, layer, table, row)

    def _embed(self, tokens: Sequence[TokenLike]) -> Floats:
        return self._embedding([as_id(token) for token in tokens])

    def close(self) -> None:
        self._one_blas_thread.restore_original_limits()
        self._layer.close()


class TaughtDrafting:
    """See cache.Drafting."""

    def __init__(self, support: TaughtSupport, streams: DraftStreams, taps: Taps | None, context: Context) -> None:
        """`taps` of `context`, the model's; None: the draft needs none."""
        self._support = support
        self._streams = streams
        self._n_vocab = context.n_vocab
        self._taps = taps
        self.decode = taps.decode if taps else context.decode

    def attach(self, cache: GgufCache) -> None:
        drafts = self._support.new_drafts(self._streams.new_layer(cache.policy), self._n_vocab)
        cache.draft_by(lambda max_rows: TaughtRound(cache, drafts, self._taps, max_rows))
        cache.watch(self.decode, drafts)
        cache.on_close(drafts.close)

    def close(self) -> None:
        self._streams.close()

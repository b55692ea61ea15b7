"""A taught draft opened beside a model of llama.cpp, and how the model's caches draft with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from edgeinfer.backends.gguf import llama
from edgeinfer.backends.gguf.cache import GgufCache
from edgeinfer.backends.gguf.draft.layer import GgufDraftLayer
from edgeinfer.backends.gguf.draft.layer_file import write_layer
from edgeinfer.backends.gguf.draft.round import FeatureRound
from edgeinfer.backends.gguf.draft.taps import Taps
from edgeinfer.backends.gguf.facts import DRAFT_ROWS, TAPPED_ARCHITECTURES
from edgeinfer.backends.gguf.llama import ContextOptions, LlamaModel
from edgeinfer.backends.taught import FeatureDrafts, FeatureInputs
from edgeinfer.errors import ArtifactError
from edgeinfer.formats.draft_file import DraftFile
from edgeinfer.formats.gguf_header import GgufHeader
from edgeinfer.formats.gguf_rows import TensorRows, read_vector

if TYPE_CHECKING:
    from edgeinfer.backends.gguf.llama import Floats

__all__ = ["TaughtSupport"]


class TaughtSupport:
    """Shared by the conversations of a model. `close` frees the draft's weights, after its caches."""

    def __init__(self, draft: DraftFile, header: GgufHeader, path: Path) -> None:
        """`header` is that of the model's one file at `path`. Raises ArtifactError for a model that gives no states."""
        if draft.shape.architecture not in TAPPED_ARCHITECTURES or header.parts or draft.kind != "feature":
            raise ArtifactError(f"{path.name}: llama.cpp runs no {draft.kind} draft for it", hint="leave --draft out")
        self._taps, self._ranked = draft.taps, draft.ranked_tokens
        self._inputs = FeatureInputs(draft)
        self._embed = TensorRows(path, header.by_name["token_embd.weight"])
        self._output_norm: Floats = read_vector(path, header.by_name["output_norm.weight"])
        with TemporaryDirectory(prefix="edgeinfer-draft-") as folder:
            file = Path(folder) / "layer.gguf"
            write_layer(file, draft, header, path)
            self._layer = llama.load(file, mmap=False)

    def attach(self, cache: GgufCache, model: LlamaModel, options: ContextOptions) -> None:
        """Let the rounds of `cache` draft. Raises EngineError when the contexts cannot be opened."""
        taps = Taps(cache.context, self._taps, model.n_layers, self._output_norm)
        own = replace(options, n_batch=DRAFT_ROWS, n_outputs=1)
        layer = GgufDraftLayer(self._layer, own, cache.policy)
        drafts = FeatureDrafts(self._inputs, layer, self._ranked, self._embed, model.n_vocab)
        cache.draft_by(lambda max_rows: FeatureRound(cache, drafts, taps, max_rows), drafts.close)
        cache.watch(taps.decode, drafts)

    def close(self) -> None:
        self._layer.close()

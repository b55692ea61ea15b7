"""Whether a bundle says what the file that it was made from says, on every backend that reads that file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from edgeinfer import backends
from edgeinfer.backends.executorch.facts import FACTS as EXECUTORCH
from edgeinfer.backends.executorch.golden import POLICY
from edgeinfer.backends.gguf.facts import FACTS as LLAMA_CPP
from edgeinfer.backends.reference.facts import FACTS as REFERENCE
from edgeinfer.errors import ArtifactError
from edgeinfer.formats.bundle import check_bundle
from edgeinfer.formats.paths import sha256_of
from edgeinfer.plan import Request
from edgeinfer.prefill import prefill
from edgeinfer.runner.choose import choose
from edgeinfer.types import KvType

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    LogProbabilities: TypeAlias = npt.NDArray[np.float64]  # [tokens, V]

__all__ = ["MOST_NATS", "Parity", "parity"]

_COMPARED: tuple[tuple[str, KvType | None], ...] = ((LLAMA_CPP.name, "f16"), (EXECUTORCH.name, None))
MOST_NATS = 0.1  # a token, on average: twice what four bits with positive scales cost the demo


@dataclass(frozen=True, slots=True)
class Parity:
    """One backend against the NumPy reference, over the golden answers of the bundle, past the wrap of the window."""

    backend: str
    n_tokens: int
    nats: float  # mean Kullback-Leibler divergence of a token
    worst_nats: float
    same_top: float  # share of tokens with the same most likely next one


def parity(bundle: Path, model: Path) -> tuple[Parity, ...]:
    """Raises ArtifactError when `model` is not the file of the bundle, or when the bundle says something else."""
    manifest = check_bundle(bundle).manifest
    if sha256_of(model) != manifest.source_sha256:
        raise ArtifactError(
            f"{bundle} was not made from {model}: digests differ", hint="name the file it was made from"
        )
    if not manifest.golden:
        raise ArtifactError(f"{bundle} has no recorded answers to compare", hint="export it where the engine runs")
    texts = [(*golden.prompt, *golden.answer) for golden in manifest.golden]
    oracle = _log_probabilities(model, REFERENCE.name, "f32", texts)
    found = []
    for backend, kv_type in _COMPARED:
        rows = _log_probabilities(bundle if backend == EXECUTORCH.name else model, backend, kv_type, texts)
        found.append(_compared(backend, oracle, rows))
    worst = max(found, key=lambda one: one.nats)
    if worst.nats > MOST_NATS:
        raise ArtifactError(
            f"{worst.backend} differs from the reference by {worst.nats:.3f} nats a token; {MOST_NATS} are allowed",
            hint="export the model again",
        )
    return tuple(found)


def _log_probabilities(
    path: Path, backend: str, kv_type: KvType | None, texts: Sequence[Sequence[int]]
) -> LogProbabilities:
    """Each text read one token at a time."""
    import numpy as np

    request = Request(model=str(path), backend=backend, kv_type=kv_type, speculation="off", force=True)
    loaded = backends.get(backend).load(choose(request, offline=True), path)
    rows = []
    try:
        for text in texts:
            cache = loaded.new_cache(POLICY)
            rows += [prefill(cache, [token]).numpy().astype(np.float64) for token in text]
            cache.close()
    finally:
        loaded.close()
    logits = np.array(rows)
    logits -= logits.max(axis=1, keepdims=True)
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))


def _compared(backend: str, oracle: LogProbabilities, rows: LogProbabilities) -> Parity:
    import numpy as np

    nats = (np.exp(oracle) * (oracle - rows)).sum(axis=1)
    same = oracle.argmax(axis=1) == rows.argmax(axis=1)
    return Parity(backend, len(nats), float(nats.mean()), float(nats.max()), float(same.mean()))

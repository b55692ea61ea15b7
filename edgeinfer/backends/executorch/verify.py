"""Checks on this machine that a bundle is what its manifest says: files, answers, exactness and memory."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

from edgeinfer.backends.executorch.bundle import load_bundle
from edgeinfer.backends.executorch.golden import POLICY, exact_rows
from edgeinfer.backends.executorch.model import ExecutorchModel
from edgeinfer.errors import ArtifactError
from edgeinfer.formats.bundle import Bundle, check_bundle, check_files
from edgeinfer.formats.bundle_zip import is_bundle_zip, unpack
from edgeinfer.formats.manifest import Golden, Manifest
from edgeinfer.prefill import prefill

TOLERANCE = 0.5  # of a logit: processors differ in how they round activations to 8 bits
_ROUND_ROWS = 5


@dataclass(frozen=True, slots=True)
class Verified:
    manifest: Manifest
    n_tokens: int  # of golden answers that were compared, one at a time and in rounds
    worst_difference: float  # of a logit
    exact_rows: int  # on this machine; the manifest has that of the exporting machine
    resident_bytes: int  # that loading and answering added


def verify_bundle(folder: Path) -> Verified:
    """Raises ArtifactError for a file that was changed, and for an answer that is not the recorded one."""
    if is_bundle_zip(folder):
        with tempfile.TemporaryDirectory() as scratch:
            unpack(folder, Path(scratch) / folder.stem)
            return verify_bundle(Path(scratch) / folder.stem)
    bundle = check_bundle(folder)
    check_files(bundle)  # before the engine sees a byte
    before = psutil.Process().memory_info().rss
    model = load_bundle(folder)
    try:
        _check_kv_bytes(model, bundle)
        differences = [
            difference
            for golden in bundle.manifest.golden
            for n_rows in (1, _ROUND_ROWS)
            for difference in _replay(model, golden, n_rows, folder)
        ]
        resident = psutil.Process().memory_info().rss - before
        n_exact = exact_rows(model)
    finally:
        model.close()
    return Verified(bundle.manifest, len(differences), max(differences, default=0.0), n_exact, max(0, resident))


def _check_kv_bytes(model: ExecutorchModel, bundle: Bundle) -> None:
    """Raises ArtifactError where a conversation takes other bytes than the manifest says."""
    cache = model.new_cache(POLICY)
    found, stated = cache.n_bytes // POLICY.slots, bundle.manifest.memory.kv_bytes_per_position
    cache.close()
    if found != stated:
        raise ArtifactError(
            f"{bundle.path}: K and V as {bundle.manifest.kv_type} take {found:,} bytes for each position; "
            f"the manifest says {stated:,}",
            hint="export the model again",
        )


def _replay(model: ExecutorchModel, golden: Golden, n_rows: int, folder: Path) -> list[float]:
    """Feed the golden answer in rounds of `n_rows`, with drafts where the model drafts. Returns the difference of each
    logit.

    Raises ArtifactError where a logit differs by more than TOLERANCE, or where another token is best although the two
    best ones were further apart than that.
    """
    cache = model.new_cache(POLICY)
    rows = [prefill(cache, golden.prompt).numpy().copy()]
    at = 0
    while at < len(golden.answer) - 1:
        n = min(n_rows, len(golden.answer) - 1 - at, POLICY.room(cache.length))
        tokens = golden.answer[at : at + n]
        step = cache.begin(n)
        if model.drafts_with:
            for token in tokens[: n - 1]:
                step.draft(token)
        rows += [row.numpy().copy() for row in step.verify(tokens)]
        step.commit(n)
        at += n
    cache.close()
    differences = []
    recorded = zip(rows, golden.answer, golden.logits, golden.second_logits, strict=True)
    for index, (row, token, logit, second) in enumerate(recorded):
        difference = abs(float(row[token]) - logit)
        if difference > TOLERANCE or (logit - second > TOLERANCE and int(row.argmax()) != token):
            raise ArtifactError(
                f"{folder}: the program does not give its recorded answer: token {index} was {token} with logit "
                f"{logit:.2f}; here that logit is {float(row[token]):.2f}, and token {int(row.argmax())} is the best",
                hint="export the model again",
            )
        differences.append(difference)
    return differences

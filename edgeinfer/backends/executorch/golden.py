"""Golden answers of an exported program: recorded at export, compared by `verify`."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeinfer.backends.executorch.build import check_buildable
from edgeinfer.backends.executorch.bundle import load_bundle
from edgeinfer.backends.executorch.model import ExecutorchModel
from edgeinfer.errors import BackendError, EngineError
from edgeinfer.formats.bundle import check_bundle
from edgeinfer.formats.manifest import Golden, write_manifest
from edgeinfer.prefill import prefill
from edgeinfer.window import WindowPolicy

TEXTS = ("Once upon a time there was a little dog who", "The capital of France is", "def add(a, b):\n    return")
N_ANSWER = 48  # tokens; enough for two evictions under POLICY
POLICY = WindowPolicy(window=32, sink=4, block=8, limit=128)
MAX_EXACT_ROWS = 16


def record(folder: Path) -> None:
    """Add `exact_rows` and golden answers to the manifest in `folder`, if the engine can run on this machine.

    The engine runs in a process of its own, because ExecuTorch's exporter has registered the same kernels in this one.
    Raises EngineError when the program does not run.
    """
    try:
        check_buildable()
    except BackendError:
        return
    command = [sys.executable, "-m", "edgeinfer.backends.executorch.golden", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        cause = (done.stderr.strip().splitlines() or ["no cause was printed"])[-1]
        raise EngineError(f"the exported program does not run here: {cause}")


def main(folder: Path) -> None:
    model = load_bundle(folder)
    golden = tuple(answer(model, tuple(model.tokenizer.encode(text, special=False))) for text in TEXTS)
    manifest = replace(check_bundle(folder).manifest, golden=golden, exact_rows=exact_rows(model))
    model.close()
    write_manifest(folder, manifest)


def answer(model: ExecutorchModel, prompt: tuple[int, ...]) -> Golden:
    """The greedy answer to `prompt`, one token at a time."""
    cache = model.new_cache(POLICY)
    row = prefill(cache, prompt)
    ids: list[int] = []
    best: list[tuple[float, float]] = []  # the two largest logits
    while len(ids) < N_ANSWER:
        ids.append(row.argmax())
        second, first = np.partition(row.numpy(), -2)[-2:]
        best.append((round(float(first), 4), round(float(second), 4)))
        row = prefill(cache, ids[-1:])
    cache.close()
    logits, second_logits = zip(*best, strict=True)
    return Golden(prompt, tuple(ids), logits, second_logits)


def exact_rows(model: ExecutorchModel) -> int:
    """The largest n up to 16 for which verifies of 2 to n rows, drafted or not, equal plain rows bit for bit."""
    rng = np.random.default_rng(0)
    tokens = [int(token) for token in rng.integers(0, model.tokenizer.n_vocab, POLICY.window)]
    cache = model.new_cache(POLICY)
    plain = [prefill(cache, [token]).numpy().copy() for token in tokens]
    n_exact = 1
    for n in range(2, MAX_EXACT_ROWS + 1):
        for n_drafted in (0, n - 1) if model.drafts_with else (0,):
            cache.rewind(0)
            for at in range(0, len(tokens) - n, n):
                step = cache.begin(n)
                for token in tokens[at : at + n_drafted]:
                    step.draft(token)
                rows = step.verify(tokens[at : at + n])
                step.commit(n)
                if not all(np.array_equal(row.numpy(), plain[at + index]) for index, row in enumerate(rows)):
                    cache.close()
                    return n_exact
        n_exact = n
    cache.close()
    return n_exact


if __name__ == "__main__":
    main(Path(sys.argv[1]))

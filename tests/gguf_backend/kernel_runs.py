"""Runs with kernels in place of ggml's, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeinfer.backends.gguf.amx import amx_types, would_crash
from edgeinfer.backends.gguf.kernels import library
from edgeinfer.backends.gguf.kernels.library import why_not
from edgeinfer.backends.gguf.probe import cpu_features
from edgeinfer.device import detect

DEVICE = detect()
WHY_NOT = why_not(DEVICE) or ("this build of llama.cpp has AMX" if amx_types() or would_crash() else "")
needs_kernels = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "-")
needs_vnni = pytest.mark.skipif(bool(WHY_NOT) or "AVX512_VNNI" not in cpu_features(), reason=WHY_NOT or "AVX-512 VNNI")


def run(code: str, *arguments: str, **environment: str) -> str:
    """In a process of its own, because the rows stay in the process that they were put into."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def with_mistake(
    folder: Path, file: str, right: str, wrong: str, *, test: str = "", features: str = "library._FLAGS_BY_FEATURE"
) -> str:
    """Code that installs kernels of a copy of the sources with a mistake in it. It prints what the self-test says."""
    sources = Path(library.__file__).parent
    for source in (*sources.glob("*.cpp"), *sources.glob("*.h")):
        (folder / source.name).write_text(source.read_text())
    assert (folder / file).read_text().count(right) == 1
    (folder / file).write_text((folder / file).read_text().replace(right, wrong))
    return f"""
import os
from edgeinfer.backends.gguf.amx import amx_types, would_crash
from edgeinfer.backends.gguf.kernels import library
from edgeinfer.device import detect
os.environ["XDG_CACHE_HOME"] = {str(folder)!r}
library.__file__ = {str(folder / "library.py")!r}
library._FLAGS_BY_FEATURE = {features}
library._FLAGS = tuple(flag.replace("-O3", "-O1") for flag in library._FLAGS)  # the same bits, sooner
if {bool(test)}:
    print(library.install(detect(), {{{test!r}}}))
"""


LOGITS = """
import hashlib
import sys
import numpy as np
from edgeinfer.backends.gguf import BACKEND
from edgeinfer.plan.types import Request
from edgeinfer.runner.choose import choose
from edgeinfer.runner.opening import local_path

plan = choose(Request(model=sys.argv[1], context=512, backend="gguf", speculation="off"), offline=True)
model = BACKEND.load(plan, local_path(plan.artifact))
cache = model.new_cache(plan.window)
for n in (1, 2, 3, 4, 5, 7, 8, 11, 16):
    step = cache.begin(n)
    rows = step.verify([7 * n + at for at in range(n)])
    print(n, hashlib.sha256(np.array([row.numpy() for row in rows]).tobytes()).hexdigest())
    step.commit(n)
model.close()
"""


EXACT = """
import sys
import numpy as np
from edgeinfer.backends.gguf import BACKEND
from edgeinfer.plan.types import Request
from edgeinfer.runner.choose import choose
from edgeinfer.runner.opening import local_path

plan = choose(Request(model=sys.argv[1], context=512, backend="gguf", threads=2, conversations=2), offline=True)
model = BACKEND.load(plan, local_path(plan.artifact))
single, several = model.new_cache(plan.window), model.new_cache(plan.window)

def step(cache, tokens):
    round_ = cache.begin(len(tokens))
    rows = [row.numpy().copy() for row in round_.verify(tokens)]
    round_.commit(len(tokens))
    return rows

for n in range(2, model.exact_rows + 1):
    tokens = [7 * n + at for at in range(n)]
    assert np.array_equal(step(several, tokens), [step(single, [token])[0] for token in tokens]), n
print(model.exact_rows)
model.close()
"""


def check_logits(
    model: str, folder: Path, mistake: tuple[str, str, str], *, n_as_ggml: int | None = None, n_left: int = 0
) -> None:
    """The first numbers of rows have ggml's logits, and with a mistake in the kernel all but `n_left` have others."""
    ours, of_ggml = (run(LOGITS, model, EDGEINFER_PATCH_LLAMA=switch).splitlines() for switch in ("on", "off"))
    assert ours[:n_as_ggml] == of_ggml[:n_as_ggml]
    unnoticed = "from edgeinfer.backends.gguf.kernels import self_test\nself_test.self_test = lambda *_: ''\n"
    wrong = run(with_mistake(folder, *mistake) + unnoticed + LOGITS, model)
    equal = [a == b for a, b in zip(ours, wrong.splitlines(), strict=True)]
    assert equal == [True] * n_left + [False] * (len(equal) - n_left)  # the kernel did run

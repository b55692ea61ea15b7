"""The attention of the engine, compiled without ExecuTorch, against float64 and for equal bits."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.executorch.exported import ROOT
from tests.object_cache import compiled, linked

ENGINE = ROOT / "mobile/runtime/engine"
CHECK = Path(__file__).with_name("attention_check.cpp")
COMPILER = shutil.which("c++")
MISTAKES = {
    "the last key is left out": ("key < t.n_keys[query]; ++key) add(0", "key + 1 < t.n_keys[query]; ++key) add(0"),
    "keys beyond the list are weighed": ("scores[i] = -1e30f;", "scores[i] = scores[0];"),
    "several queries round differently from one": (
        "Vec sums[N][C] = {};",
        "Vec sums[N][C] = {}; if (N > 1) sums[N - 1][0] += all(1e-7f);",
    ),
    "two queries swap their scores": (
        "scores + i * t.score_stride + key",
        "scores + (N - 1 - i) * t.score_stride + key",
    ),
    "e to the x is a little off": ("1.6666665459e-1f", "1.7666665459e-1f"),
    "8-bit keys lose their scale": ("sums[i] *= Kept::scale", "sums[i] *= 1.01f * Kept::scale"),
    "8-bit values take the scale of keys": ("(t, t.values, key), t.head", "(t, t.keys, key), t.head"),
    "halves are rounded down": ("bits += 0xfffu + (bits >> 13 & 1u);", ""),
    "bytes are rounded down": ("std::nearbyint(", "std::floor("),
}

pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")


def run(sources: Path) -> subprocess.CompletedProcess[str]:
    assert COMPILER is not None
    flags = ("-std=c++17", "-O2", "-ffp-contract=fast", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", f"-I{ENGINE}")
    avx2 = ("-mavx2", "-mfma", "-mf16c") if platform.machine() in ("x86_64", "AMD64") else ()
    usual = [sources / "attention_portable.cpp", sources / "storage.cpp", CHECK]
    objects = compiled(COMPILER, usual, *flags) + compiled(COMPILER, [sources / "attention_avx2.cpp"], *flags, *avx2)
    return subprocess.run([linked(COMPILER, objects)], capture_output=True, text=True, check=False)


def test_every_query_is_exact() -> None:
    done = run(ENGINE)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_seeded_mistake_is_found(tmp_path: Path, mistake: str) -> None:
    before, after = MISTAKES[mistake]
    sources = Path(shutil.copytree(ENGINE, tmp_path / "engine"))
    changed = [path for path in sources.glob("[asv]*.*") if before in path.read_text(encoding="utf-8")]
    assert len(changed) == 1
    changed[0].write_text(changed[0].read_text(encoding="utf-8").replace(before, after), encoding="utf-8")
    done = run(sources)
    assert done.returncode == 1 and "off by" in done.stdout

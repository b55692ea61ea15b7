"""The first start of a model runs the self-test and calibration. Its memory, too, stays below the plan.

Kernels are built before a model is loaded, where there is memory for the compilers: that is not of the plan.
"""

from pathlib import Path

import pytest

pytest.importorskip("llama_cpp")
from benchmarks.memory import measure
from edgeinfer.backends.gguf.kernels.library import KERNELS, install
from edgeinfer.device import detect


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux only")
@pytest.mark.parametrize("context", [1024, 2048])
def test_the_peak_of_a_first_start_is_below_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, context: int
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    install(detect(), KERNELS.keys())
    row = measure("demo", context, "gguf", "auto")
    assert row.peak.alone <= row.total_bytes

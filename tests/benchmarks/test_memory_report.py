"""The report of estimated against measured memory."""

import mmap
import os
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.memory import Peak, Row, look, report

ROW = Row("Demo", "Q4_0", "gguf", "off", 2048, 26_000_000, 13_000_000, 81_000_000, Peak(90_000_000, 100_000_000))


def test_the_error_is_relative_to_the_memory_of_this_process_alone() -> None:
    assert ROW.total_bytes == 120_000_000
    args = Namespace(model=["/somewhere/demo.gguf"], speculation=["auto"], kv_type="f16", template="")
    assert ROW.error == pytest.approx(0.2)
    text = report([ROW], args)
    assert "| Demo | Q4_0 | gguf | off | 2048 | 26.0 | 13.0 | 81.0 | 120.0 | 90.0 | 100.0 | +20.0% |" in text
    assert "Largest difference from `alone`: 20.0% (allowed: 8%)." in text
    assert "`python -m benchmarks memory --model demo.gguf --context 2048 --speculation auto --kv-type f16`" in text


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux only")
def test_the_memory_of_a_process_is_measured() -> None:
    before = look(os.getpid())
    # fresh pages, because memory that the interpreter already holds would show no growth
    held = mmap.mmap(-1, 50_000_000, flags=mmap.MAP_PRIVATE)
    for page in range(0, len(held), mmap.PAGESIZE):
        held[page] = 1
    after = look(os.getpid())
    assert 40_000_000 < after.pss - before.pss < 80_000_000
    assert 40_000_000 < after.alone - before.alone < 80_000_000
    assert len(held) == 50_000_000
    assert look(2**22 + 1) == Peak()  # a process that has ended

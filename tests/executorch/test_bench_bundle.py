"""`edgeinfer bench bundle`: interleaved pairs and the report. No speed is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeinfer.bench.bundle import measure
from edgeinfer.bench.bundle.measure import CASES, KV_TYPES, ROWS, THREADS, compare
from edgeinfer.bench.bundle.worker import Worker
from edgeinfer.bench.speculation.sides import Sides
from edgeinfer.cli.main import main
from edgeinfer.errors import EngineError, UsageError
from tests.executorch.exported import bundle_of, missing
from tests.tiny_gguf import Tiny, write_tiny


class FakeWorker:
    """Ours takes 2 s, the stock program 3 s."""

    calls: list[str] = []  # noqa: RUF012

    def __init__(self, side: str, path: Path, n_threads: int) -> None:
        self.side = side

    def __enter__(self) -> FakeWorker:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def seconds(self, n_tokens: int, start: int, *, n_rows: int = 1, times: int = 1) -> float:
        self.calls.append(self.side)
        return 2.0 if self.side == "ours" else 3.0


def test_pairs_alternate_and_the_ratio_is_our_speed_over_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "Worker", FakeWorker)
    monkeypatch.setattr(FakeWorker, "calls", [])
    found = list(compare(lambda n_threads: FakeWorker("ours", Path("ours"), n_threads), Path("stock.pte"), 3))
    assert len(found) == len(CASES) * len(THREADS)
    assert {(one.ours_s, one.stock_s, one.ratio.ratio) for one in found} == {(2.0, 3.0, 1.5)}
    one_case = ["ours", "stock", "ours", "stock", "stock", "ours", "ours", "stock"]  # the first two are not counted
    assert FakeWorker.calls == one_case * len(found)


def test_a_worker_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"the measured process ended: .*manifest"):
        Worker("ours", tmp_path, 1)


def test_one_run_gives_no_spread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "bundle", str(tmp_path), "--runs", "1"]) == UsageError.exit_code
    assert "--runs must be at least 2; received 1" in capsys.readouterr().err


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_plain_decoding_and_every_draft_run_in_one_program(tmp_path: Path) -> None:
    """Two programs lie in different pages, and one of them is some percent quicker."""
    bundle = bundle_of(write_tiny(tmp_path / "llama-F32.gguf", Tiny()), "fp32")
    with Sides(str(bundle), ["auto", "lookup", "early-exit"]) as sides:
        assert sides.exit_model is sides.plain_model
        assert {"plain", "auto", "lookup", "early-exit"} <= sides.decoders.keys()
        assert sides.skipped == {}


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_a_bundle_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = bundle_of(write_tiny(tmp_path / "llama-F32.gguf", Tiny()), "fp32")
    assert main(["bench", "bundle", str(bundle), "--runs", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["opened_s"] > 0 and report["compared"] == []
    assert [(one["n_threads"], one["kv_type"]) for one in report["kv"]] == [(n, m) for n in THREADS for m in KV_TYPES]
    assert [(one["n_threads"], one["n_rows"]) for one in report["rows"]] == [(n, m) for n in THREADS for m in ROWS]

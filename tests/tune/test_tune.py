"""`edgeinfer tune` from start to finish on a tiny model: the file states how often the draft agrees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="teaching needs torch: `make test` installs it")
pytest.importorskip("safetensors", reason="teaching needs safetensors: `make test` installs it")

from edgeinfer.errors import ArtifactError, BackendError, NoPlanError, UsageError  # noqa: E402
from edgeinfer.formats.draft_file import read_draft_file  # noqa: E402
from edgeinfer.runner.opening import Downloads  # noqa: E402
from edgeinfer.tune import job  # noqa: E402
from edgeinfer.tune.drafts import Kind  # noqa: E402
from edgeinfer.tune.job import Forecast, Taught, TuneRequest, tune  # noqa: E402
from edgeinfer.tune.prepare import Prepared  # noqa: E402
from edgeinfer.tune.teach import Progress  # noqa: E402
from edgeinfer.tune.turns import Turns  # noqa: E402
from edgeinfer.tune.work import Pace, Sizes  # noqa: E402
from tests.tiny_gguf import Tiny, write_tiny  # noqa: E402

OFTEN = 227  # a token that the random model often emits, so that turns end
TURNS = Turns((1, 100, 13), (13, 1, 101, 13), (13, 1, 100, 13), OFTEN)
OPENINGS = tuple((1, 100, 13, word, 2, 13, 1, 101, 13) for word in (70, 71, 72))
PREPARED = Prepared(
    (1.0, 1.1, 1.2, 1.3), TURNS, OPENINGS, ((1, 100, 13, 50, 2, 13, 1, 101, 13), (1, 100, 13, 60, 2, 1, 101, 13)), None
)
SIZES = Sizes(n_tokens=96, part_rows=8, step_rows=4)
PACE = Pace(1.0, {"exit": 0.25, "feature": 0.25})


class Quiet:
    """Records progress; `stop_at` interrupts teaching like Ctrl-C."""

    def __init__(self, stop_at: int = 0) -> None:
        self.said: list[Forecast] = []
        self.parts: list[int] = []
        self.steps: list[Progress] = []
        self._stop_at = stop_at

    def waiting(self, sentence: str) -> None:
        raise AssertionError(sentence)

    def forecast(self, forecast: Forecast) -> None:
        self.said.append(forecast)

    def wrote(self, n_parts: int, of: int, n_tokens: int) -> None:
        self.parts.append(n_parts)

    def taught(self, kind: Kind, progress: Progress) -> None:
        self.steps.append(progress)
        if progress.step == self._stop_at:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def on_a_machine_where_rows_are_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fixed measurements in place of this machine's costs and pace."""
    monkeypatch.setattr(job, "prepare", lambda plan, path, *, data, waiting: PREPARED)
    monkeypatch.setattr(job, "measure_pace", lambda *args, **_: replace(PACE, s_per_step=dict.fromkeys(args[2], 0.25)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One late layer, which the one layer of an exit draft can learn to replace."""
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    return write_tiny(
        path, Tiny(n_layers=2, exit_layer=1, hidden=64, n_heads=2, n_kv_heads=1, n_ffn=128, late_gain=0.7)
    )


def request(model: Path, out: Path, **changes: object) -> TuneRequest:
    usual = TuneRequest(str(model), ("exit",), 1.0, exit_layer=1, out=out, device="cpu", force=True, sizes=SIZES)
    return replace(usual, **changes)  # type: ignore[arg-type]


def run(request: TuneRequest, listener: Quiet | None = None) -> list[Taught]:
    return tune(request, Downloads(offline=True), listener or Quiet())


def test_drafts_are_taught_from_nothing(model: Path, tmp_path: Path) -> None:
    listener = Quiet()
    taught = run(request(model, tmp_path / "tiny.draft.safetensors", kinds=("feature", "exit"), minutes=2.0), listener)
    for one in taught:
        assert one.curve[-1].agreement[0] > one.curve[0].agreement[0] + 0.1
        file = read_draft_file(one.path)
        assert (file.kind, file.base_model) == (one.kind, "tiny llama 0")
        assert file.agreement == tuple(round(share, 4) for share in one.answers[-1].by_depth)
    assert listener.parts == list(range(1, 41))  # a third of two minutes, at a second a part
    assert listener.said[0].memory_bytes < listener.said[0].budget_bytes
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "tiny.exit.draft.safetensors",
        "tiny.feature.draft.safetensors",
    ]


def contents(path: Path) -> tuple[dict[str, str], bytes]:
    """Metadata and tensor data. safetensors writes metadata in any order."""
    header = read_draft_file(path).header
    return dict(header.metadata), path.read_bytes()[min(tensor.offset for tensor in header.tensors.values()) :]


def test_an_interrupted_run_gives_the_same_draft(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, stopped = tmp_path / "whole.draft.safetensors", tmp_path / "stopped.draft.safetensors"
    (through,) = run(request(model, whole))
    monkeypatch.setattr(job, "SAVE_EVERY_S", 0.5)
    with pytest.raises(KeyboardInterrupt):
        run(request(model, stopped), Quiet(stop_at=100))
    assert not stopped.exists()
    again = Quiet()
    (resumed,) = run(request(model, stopped), again)
    assert again.steps[0].step > 10  # it did not start over
    assert resumed.curve == through.curve
    assert contents(stopped) == contents(whole)


def test_unfinished_work_is_not_mixed_with_other_settings(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny.draft.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(request(model, out), Quiet(5))
    with pytest.raises(UsageError, match="unfinished teaching with another minutes"):
        run(request(model, out, minutes=2.0))


def test_work_is_not_continued_with_less_memory(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "tiny.draft.safetensors"
    listener = Quiet(5)
    with pytest.raises(KeyboardInterrupt):
        run(request(model, out), listener)
    needed = listener.said[0].memory_bytes
    monkeypatch.setattr(job, "free_bytes", lambda device, planned: needed - 1)
    with pytest.raises(NoPlanError, match="begun with more memory"):
        run(request(model, out))


def test_nothing_is_taught_where_no_gain_is_expected(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dear = replace(PREPARED, row_costs=(1.0, 2.0, 3.0))
    monkeypatch.setattr(job, "prepare", lambda plan, path, **how: dear)
    with pytest.raises(NoPlanError, match=r"would win nothing .* 2 rows 2\.00, 3 rows 3\.00") as refused:
        run(request(model, tmp_path / "a.draft.safetensors", force=False))
    assert "--force" in refused.value.hint
    assert list(tmp_path.iterdir()) == []


def test_models_that_cannot_be_taught_are_refused(model: Path, tmp_path: Path) -> None:
    gemma = write_tiny(tmp_path / "gemma.gguf", Tiny("gemma3", own_window=64))
    with pytest.raises(ArtifactError, match="computes llama and qwen3, not gemma3"):
        run(request(gemma, tmp_path / "a.draft.safetensors"))
    with pytest.raises(UsageError, match=r"--exit-layer 2: tiny\.gguf has 2 layers"):
        run(request(model, tmp_path / "a.draft.safetensors", exit_layer=2))
    with pytest.raises(UsageError, match=r"ends in \.draft\.safetensors"):
        run(request(model, tmp_path / "a.safetensors"))
    with pytest.raises(UsageError, match="cannot write into"):
        run(request(model, tmp_path / "missing/a.draft.safetensors"))
    with pytest.raises(BackendError, match="no mps device"):
        run(request(model, tmp_path / "a.draft.safetensors", device="mps"))
    assert [path.name for path in tmp_path.iterdir()] == ["gemma.gguf"]


def test_the_plot_is_a_png(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="drawing needs matplotlib")
    from edgeinfer.tune.plot import plot

    plot(run(request(model, tmp_path / "tiny.draft.safetensors", minutes=0.4)), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")

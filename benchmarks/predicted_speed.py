"""The planner's expected decode speed against published runs: `python -m benchmarks predicted_speed [--json]`."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edgeinfer.catalog.entry import Artifact, LayerKv, ModelShape
from edgeinfer.device.devices import Chip, Devices, load_devices
from edgeinfer.device.profile import DeviceProfile
from edgeinfer.formats.tables import Table, read_toml
from edgeinfer.plan.fit import expected_tokens_per_s

__all__ = ["Row", "add_arguments", "read_rows", "report", "run"]

OUTLIER = 0.15


@dataclass(frozen=True, slots=True)
class Row:
    """One published run with what the planner expects of it, in tokens per second."""

    chip: str
    backend: str
    model: str
    read_bytes: int
    published: float
    predicted: float
    source: str
    note: str

    @property
    def error(self) -> float:
        """Signed, relative to what was published."""
        return self.predicted / self.published - 1


def read_rows(top: Table, devices: Devices) -> list[Row]:
    sources = top.table("source").all_texts()
    rows = []
    for table in (row for run_table in top.tables("run") for row in run_table.tables("rows")):
        chip, backend, n_bytes = devices.chips[table.text("chip")], table.text("backend"), int(table.number("gb") * 1e9)
        shape = _shape(table.integer("layers"))
        predicted = expected_tokens_per_s(_profile(chip, devices), shape, Artifact(backend, "", n_bytes, "", ""))
        rows.append(
            Row(
                chip=chip.title,
                backend=backend,
                model=table.text("model"),
                read_bytes=n_bytes,
                published=table.number("published"),
                predicted=predicted,
                source=sources[table.text("source")],
                note=table.text("note", ""),
            )
        )
    return rows


def _shape(n_layers: int) -> ModelShape:
    """Only its layers matter: the row says itself what a token reads."""
    return ModelShape("", n_layers, 1, 1, 1, 1, 1, (LayerKv(n_layers, 1, 1),), n_params=1, n_active_params=1)


def _profile(chip: Chip, devices: Devices) -> DeviceProfile:
    return DeviceProfile(
        name=chip.title,
        os="linux",
        chip=chip.title,
        cpu_features=chip.cpu_features,
        n_cores=int(chip.n_cores.value),
        total_bytes=0,
        available_bytes=0,
        ceiling_bytes=0,
        ceiling_source="",
        bandwidth_bytes_per_s=int(chip.gb_per_s.value * 1e9),
        bandwidth_source=chip.gb_per_s.source,
        accelerators=frozenset(),
        speeds=devices.speeds(chip.speed),
    )


def report(rows: Sequence[Row], top: Table, devices: Devices) -> str:
    """The table as Markdown, with the median error, the constants and the outliers."""
    errors = [abs(row.error) for row in rows]
    outliers = [row for row in rows if abs(row.error) > OUTLIER]
    lines = [
        "# Expected decode speed against published runs",
        "",
        "Made by `python -m benchmarks predicted_speed > docs/predicted-speed.md`.",
        "",
        "Seconds a token = bytes read / (efficiency x bandwidth) + layers x seconds a layer. The constants were fitted",
        "to these same runs, two to a class of device and backend: it shows how well the form holds, no forecast.",
        "",
        "Of a file that is on the machine, each tensor type has a rate of its own (docs/tensor-types.md); a machine is",
        "measured against that in docs/expected-speed.md.",
        "",
        f"Median error {statistics.median(errors):.1%}, largest {max(errors):.1%}, "
        f"{len(outliers)} of {len(rows)} runs off by more than {OUTLIER:.0%}.",
        "",
        "| chip | backend | model | GB read | published | predicted | error | source |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.chip} | {row.backend} | {row.model} | {row.read_bytes / 1e9:.2f} | {row.published:g} | "
        f"{row.predicted:.1f} | {row.error:+.0%} | {row.source} |"
        for row in rows
    ]
    lines += ["", "## Outliers", ""]
    lines += [f"* {row.chip}, {row.model} ({row.error:+.0%}): {row.note}." for row in outliers] or ["None."]
    lines += ["", "## Constants", "", "| class | backend | efficiency | ms a layer |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {speed.backend} | {speed.efficiency:.2f} | {speed.layer_s * 1e3:.2f} |"
        for name, speeds in devices.classes.items()
        for speed in speeds
    ]
    lines += ["", "## Published, but not predicted", ""]
    lines += [f"* {one.text('what')}: {one.text('published')}. {one.text('why')}." for one in top.tables("other")]
    return "\n".join(lines) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the rows as JSON")


def run(args: argparse.Namespace) -> int:
    devices = load_devices()
    top = read_toml(Path(__file__).parent / "published_speeds.toml")
    rows = read_rows(top, devices)
    if args.json:
        sys.stdout.write(json.dumps([{**asdict(row), "error": row.error} for row in rows], indent=1) + "\n")
    else:
        sys.stdout.write(report(rows, top, devices))
    return 0

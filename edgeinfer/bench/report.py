"""The head of every report: device, versions, commit, command."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from edgeinfer.device import DeviceProfile
from edgeinfer.errors import BackendError, UsageError
from edgeinfer.named_files import check_output


def head(title: str, command: Sequence[str], device: DeviceProfile, versions: Mapping[str, str]) -> str:
    """The first lines of a Markdown report. `command` repeats the measurement."""
    known = ", ".join(f"{name} {version}" for name, version in versions.items())
    python = ".".join(str(part) for part in sys.version_info[:3])
    cores = f"{device.n_cores} core{'s' if device.n_cores > 1 else ''}"
    return (
        f"# {title}\n\n"
        f"`{shlex.join(command)}`\n\n"
        f"Device: {device.chip or device.name}, {cores}, {device.total_bytes / 1e9:.1f} GB, {device.os}; "
        f"{device.bandwidth_bytes_per_s / 1e9:.1f} GB/s ({device.bandwidth_source}). "
        f"Versions: Python {python}, {known}. Commit: {commit()}.\n"
    )


def commit() -> str:
    """The commit that is checked out, "+" after it when files differ; "unknown" outside a checkout."""
    here = Path(__file__).parent
    asked = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=10"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is left-aligned, the others are right-aligned."""
    lines = [f"| {' | '.join(titles)} |", f"|---{'|---:' * (len(titles) - 1)}|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def check_outputs(*files: Path | None, plots: Sequence[Path | None] = ()) -> None:
    """Raises UsageError for a place that cannot be written, BackendError without matplotlib, before a measurement."""
    for file in (*files, *plots):
        check_output(file)
    if any(plots) and find_spec("matplotlib") is None:
        raise BackendError("drawing needs matplotlib", hint="pip install 'edgeinfer[plot]'")


def print_report(text: str) -> None:
    """On stdout. Raises UsageError where it cannot be written."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"stdout cannot be written: {error.strerror}", hint="write to another file") from error


def say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()

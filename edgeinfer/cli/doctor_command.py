"""`edgeinfer doctor`: this machine, its backends, and where files are."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeinfer import __version__
from edgeinfer.cli.options import add_json_option
from edgeinfer.cli.output import show, show_json, size
from edgeinfer.plan.facts import installed_version

if TYPE_CHECKING:
    from edgeinfer.device import DeviceProfile
    from edgeinfer.plan import BackendFacts, Capabilities

HELP = "show what this machine is, what each backend found, and where files are"
USAGE = "doctor [--json]"
EXAMPLES = """\
  edgeinfer doctor
  edgeinfer doctor --json   for a bug report
"""
LIBRARIES = ("numpy", "jinja2", "huggingface_hub", "tokenizers", "gguf", "prompt_toolkit")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Exit code 3 when no backend can run."""
    from edgeinfer import backends
    from edgeinfer.device import detect
    from edgeinfer.errors import BackendError
    from edgeinfer.plan.report import device_to_json

    device = detect()
    found = [find(facts, device) for facts in backends.FACTS]
    facts = {
        "version": __version__,
        "python": platform.python_version(),
        "libraries": {name: installed_version(name) for name in LIBRARIES},
        "device": device_to_json(device),
        "backends": [backend_to_json(one) for one in found],
        "files": places(),
    }
    if args.json:
        show_json(facts)
    else:
        show("\n".join(lines(device, found)))
    usable = any(not one.unavailable and not one.facts.on_request_only for one in found)
    return 0 if usable else BackendError.exit_code


@dataclass(frozen=True, slots=True)
class Found:
    """A backend on this machine."""

    facts: BackendFacts
    capabilities: Capabilities
    versions: Mapping[str, str]
    unavailable: str
    hint: str
    report: Mapping[str, str]


def find(facts: BackendFacts, device: DeviceProfile) -> Found:
    from edgeinfer import backends

    backend = backends.get(facts.name)
    capabilities, probe = facts.capabilities(device), backend.probe()
    unavailable = probe.unavailable or capabilities.unavailable
    return Found(
        facts,
        capabilities,
        probe.versions,
        unavailable,
        probe.hint or capabilities.hint,
        backend.report() if not unavailable else {},
    )


def lines(device: DeviceProfile, found: list[Found]) -> list[str]:
    libraries = ", ".join(f"{name} {installed_version(name) or 'missing'}" for name in LIBRARIES)
    text = [
        f"edgeinfer {__version__}, Python {platform.python_version()}",
        f"  {libraries}",
        "",
        f"device: {device.name}",
        f"  chip        {device.chip}, {device.n_cores} cores for this process",
        f"  features    {' '.join(sorted(device.cpu_features)) or 'none known'}",
        f"  memory      {size(device.total_bytes)}, {size(device.available_bytes)} free now",
        f"  ceiling     {size(device.ceiling_bytes)} ({device.ceiling_source})",
        f"  bandwidth   {device.bandwidth_bytes_per_s / 1e9:.1f} GB/s ({device.bandwidth_source})",
        f"  accelerator {', '.join(sorted(device.accelerators)) or 'none'}",
        "",
        "backends:",
    ]
    for one in found:
        versions = ", ".join(f"{name} {version}" for name, version in one.versions.items())
        text.append(f"  {one.facts.name:<11} {one.unavailable or 'ready'}{f' ({versions})' if versions else ''}")
        text += [f"  {'':<11} {name}: {value}" for name, value in one.report.items()]
        if one.hint:
            text.append(f"  {'':<11} hint: {one.hint}")
    text += ["", "files:"]
    text += [f"  {name:<11} {path}" for name, path in places().items()]
    return text


def backend_to_json(found: Found) -> dict[str, object]:
    return {
        "name": found.facts.name,
        "available": not found.unavailable,
        "unavailable": found.unavailable,
        "hint": found.hint,
        "versions": dict(found.versions),
        "tiers": sorted(found.capabilities.tiers),
        "kv_types": list(found.capabilities.kv_types),
        "early_exit": found.capabilities.early_exit,
        "report": dict(found.report),
    }


def places() -> dict[str, str]:
    """Folders by their contents; "none" on a machine without a home folder."""
    from edgeinfer.catalog import builtin_file, user_models_file
    from edgeinfer.cli.lines import history_file
    from edgeinfer.errors import UsageError
    from edgeinfer.hub import cache_dir
    from edgeinfer.paths import cache_folder

    try:
        models = cache_dir()
    except UsageError:
        models = None
    measured = cache_folder()

    found = {
        "models": models,
        "catalog": builtin_file(),
        "yours": user_models_file(),
        "history": history_file(),
        "measured": measured,
    }
    texts = {name: f"{path}{note(path)}" if path else "none" for name, path in found.items()}
    return {**texts, "measured": texts["measured"] + kept(measured)}


def kept(folder: Path | None) -> str:
    if folder is None:
        return ""
    files = [path for path in folder.rglob("*") if path.is_file()]
    if not files:
        return ""
    taken = size(sum(path.stat().st_size for path in files))
    return f" ({taken} in {len(files)} files, which may be deleted at any time)"


def note(path: Path) -> str:
    """What is wrong with a folder, reported before a download begins."""
    at = path
    while not at.exists() and at != at.parent:
        at = at.parent
    usable = os.access(at, os.W_OK) and (at.is_dir() or at == path)
    return "" if usable or path.name == "models.toml" else " (cannot be written)"

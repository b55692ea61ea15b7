"""Devices by name: `devices.toml`, overridden by the user's own file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from edgeinfer.device.profile import DeviceProfile, EngineSpeed, Os
from edgeinfer.errors import UsageError
from edgeinfer.formats.tables import Table, read_toml
from edgeinfer.paths import config_folder

__all__ = ["Chip", "Device", "Devices", "Figure", "load_devices", "named", "slugs", "user_devices_file"]

_SURE = ("seen", "derived", "memory", "estimate")


@dataclass(frozen=True, slots=True)
class Figure:
    """A number with its source and its certainty: seen in the source, derived, from memory, or an estimate."""

    value: float
    source: str
    sure: str


@dataclass(frozen=True, slots=True)
class Chip:
    slug: str
    title: str  # as the operating system spells it
    gb_per_s: Figure
    n_cores: Figure
    cpu_features: frozenset[str]
    speed: str  # the class of its decode speed
    memory_gib: tuple[int, ...]  # machines of this title that have this bandwidth; empty: the others


@dataclass(frozen=True, slots=True)
class Device:
    slug: str
    title: str
    os: Os
    chip: Chip
    total_gib: Figure
    os_gb: Figure  # memory that the system and its programs take
    ceiling_mb: Figure
    accelerators: frozenset[str]


@dataclass(frozen=True)
class Devices:
    devices: dict[str, Device]
    chips: dict[str, Chip]
    classes: dict[str, tuple[EngineSpeed, ...]]

    def speeds(self, name: str) -> tuple[EngineSpeed, ...]:
        return self.classes.get(name, ())

    def chip_titled(self, title: str, total_bytes: int) -> Chip | None:
        """The chip of this title; where machines of one title differ, the one that comes with this much memory."""
        same: list[Chip] = [chip for chip in self.chips.values() if chip.title == title]
        gib = round(total_bytes / 2**30)
        exact = [chip for chip in same if gib in chip.memory_gib]
        return next(iter(exact or [chip for chip in same if not chip.memory_gib] or same), None)

    def profile(self, slug: str) -> DeviceProfile:
        """Raises UsageError, with near names, where there is no such device."""
        device = self.devices.get(slug.strip().lower())
        if device is None:
            import difflib

            near = difflib.get_close_matches(slug.lower(), self.devices, n=3, cutoff=0.4)
            near += [known for known in self.devices if slug.lower() in known]
            raise UsageError(
                f"unknown device: {slug}",
                hint=f"near names: {', '.join(dict.fromkeys(near))}" if near else "see `edgeinfer plan --devices`",
            )
        total = int(device.total_gib.value * 2**30)
        chip = device.chip
        return DeviceProfile(
            name=device.title,
            os=device.os,
            chip=chip.title,
            cpu_features=chip.cpu_features,
            n_cores=int(chip.n_cores.value),
            total_bytes=total,
            available_bytes=max(0, total - int(device.os_gb.value * 1e9)),
            ceiling_bytes=int(device.ceiling_mb.value * 1e6),
            ceiling_source=f"{device.ceiling_mb.source} ({device.ceiling_mb.sure})",
            bandwidth_bytes_per_s=int(chip.gb_per_s.value * 1e9),
            bandwidth_source=f"{chip.gb_per_s.source} ({chip.gb_per_s.sure})",
            accelerators=device.accelerators,
            named=True,
            slug=device.slug,
            speeds=self.speeds(chip.speed),
        )


def user_devices_file() -> Path | None:
    folder = config_folder()
    return folder / "devices.toml" if folder else None


def load_devices(user_file: Path | None = None) -> Devices:
    """The built-in devices, overridden by those of `user_file`. Raises UsageError where a file is wrong."""
    devices = _merge(Devices({}, {}, {}), read_toml(Path(__file__).parent / "devices.toml"))
    mine = user_file or user_devices_file()
    return _merge(devices, read_toml(mine)) if mine and mine.exists() else devices


def named(slug: str) -> DeviceProfile:
    """The profile of a device of `devices.toml`, such as `iphone-15-pro`. Raises UsageError for an unknown one."""
    return load_devices().profile(slug)


def slugs() -> list[str]:
    """The names that `named` takes, in the order of the file."""
    return list(load_devices().devices)


def _merge(base: Devices, top: Table) -> Devices:
    sources = top.table("source").all_texts() if "source" in top else {}
    classes = base.classes | {name: _speeds(table) for name, table in top.named("speed").items()}
    chips = base.chips | {slug: _chip(slug, table, sources) for slug, table in top.named("chip").items()}
    devices = base.devices | {slug: _device(slug, table, chips, sources) for slug, table in top.named("device").items()}
    top.done()
    unknown = {chip.speed for chip in chips.values()} - set(classes)
    if unknown:
        raise UsageError(f"{top.where}: no speed class {sorted(unknown)[0]}")
    return Devices(devices, chips, classes)


def _figure(table: Table, key: str, sources: dict[str, str]) -> Figure:
    inner = table.table(key)
    source = inner.text("source", "")
    figure = Figure(inner.number("is"), sources.get(source, source), inner.text("sure"))
    inner.done()
    if figure.sure not in _SURE:
        raise UsageError(f"{inner.where}: `sure` must be one of {', '.join(_SURE)}; received {figure.sure}")
    return figure


def _speeds(table: Table) -> tuple[EngineSpeed, ...]:
    speeds = []
    for backend, row in ((row.text("backend"), row) for row in table.tables("engines")):
        speeds.append(
            EngineSpeed(
                backend=backend,
                efficiency=row.number("efficiency"),
                layer_s=row.number("layer_us") / 1e6,
                core_bytes_per_s=row.number("core_gb_per_s", 0.0) * 1e9,
                core_rates=_rates(row, "core_gb_per_s_of"),
                head_rates=_rates(row, "head_gb_per_s_of"),
                further_core=row.number("further_core", 1.0),
                layer_share=row.number("layer_share", 1.0),
            )
        )
        row.text("source", "")
        row.done()
    table.done()
    return tuple(speeds)


def _rates(row: Table, key: str) -> dict[str, float]:
    """Bytes per second of one core, by tensor type."""
    return {name: gb_per_s * 1e9 for name, gb_per_s in row.table(key).all_numbers().items()} if key in row else {}


def _chip(slug: str, table: Table, sources: dict[str, str]) -> Chip:
    chip = Chip(
        slug=slug,
        title=table.text("title"),
        gb_per_s=_figure(table, "gb_per_s", sources),
        n_cores=_figure(table, "cores", sources),
        cpu_features=frozenset(table.texts("features")),
        speed=table.text("speed"),
        memory_gib=tuple(table.integers("memory_gib", [])),
    )
    table.done()
    return chip


def _device(slug: str, table: Table, chips: dict[str, Chip], sources: dict[str, str]) -> Device:
    system = next((known for known in get_args(Os) if known == table.text("os")), None)
    chip = table.text("chip")
    if system is None or chip not in chips:
        raise UsageError(f"{table.where}: `os` must be one of {', '.join(get_args(Os))} and `chip` a known chip")
    device = Device(
        slug=slug,
        title=table.text("title"),
        os=system,
        chip=chips[chip],
        total_gib=_figure(table, "total_gib", sources),
        os_gb=_figure(table, "os_gb", sources),
        ceiling_mb=_figure(table, "ceiling_mb", sources),
        accelerators=frozenset(table.texts("accelerators", [])),
    )
    table.done()
    return device

"""Linux: meminfo, the memory and CPU limits of the control groups (v2 and v1) with their parents, CPU features."""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeinfer.device.bandwidth import bandwidth
from edgeinfer.device.devices import Devices, load_devices
from edgeinfer.device.profile import DeviceProfile

__all__ = ["Memory", "cores", "memory", "profile"]

_NO_LIMIT = 1 << 60  # v1 writes a huge number where there is no limit


@dataclass(frozen=True, slots=True)
class Memory:
    total_bytes: int
    available_bytes: int
    ceiling_bytes: int
    ceiling_source: str


@dataclass(frozen=True, slots=True)
class _Limit:
    n_bytes: int
    in_use_bytes: int
    source: str


def profile() -> DeviceProfile:
    root = Path("/")
    devices = load_devices()
    found, n_cores, chip = memory(root), cores(root), _chip(root)
    features = _features(root)
    per_s, source = bandwidth(
        devices, chip, found.total_bytes, n_cores, usable_bytes=min(found.available_bytes, found.ceiling_bytes)
    )
    return DeviceProfile(
        name=_name(root, chip),
        os="linux",
        chip=chip,
        cpu_features=features,
        n_cores=n_cores,
        total_bytes=found.total_bytes,
        available_bytes=found.available_bytes,
        ceiling_bytes=found.ceiling_bytes,
        ceiling_source=found.ceiling_source,
        bandwidth_bytes_per_s=per_s,
        bandwidth_source=source,
        accelerators=frozenset(),
        speeds=devices.speeds(_speed_class(devices, root, chip, features)),
    )


def memory(root: Path) -> Memory:
    """The least of what the machine, each control group above this process and its own limits allow.

    `root` is "/" outside tests.
    """
    kib: dict[str, str] = dict(re.findall(r"^(\w+):\s+(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE))
    total = int(kib.get("MemTotal", 0)) * 1024
    available = int(kib.get("MemAvailable", kib.get("MemFree", 0))) * 1024
    ceiling, source = total, "all of memory (/proc/meminfo)"
    for limit in (*_group_limits(root), *_process_limits(root)):
        if limit.n_bytes >= min(total, _NO_LIMIT):
            continue
        if limit.n_bytes < ceiling:
            ceiling, source = limit.n_bytes, limit.source
        available = min(available, max(0, limit.n_bytes - limit.in_use_bytes))
    return Memory(total, available, ceiling, source)


def _group_limits(root: Path) -> Iterator[_Limit]:
    for group in _groups(root, "memory"):
        files = ("memory.max", "memory.high", "memory.limit_in_bytes")
        n_bytes = min(_limit(group / file) for file in files)
        yield _Limit(n_bytes, _in_use(group), f"control group limit (/{group.relative_to(root)})")


def _process_limits(root: Path) -> Iterator[_Limit]:
    """What `ulimit -v` and `ulimit -d` set. Python and its libraries take some of it before a model does."""
    limits, status = _read(root / "proc/self/limits"), _read(root / "proc/self/status")
    for name, used_as, flag in (("address space", "VmSize", "-v"), ("data size", "VmData", "-d")):
        found = re.search(rf"^Max {name}\s+(\d+)", limits, re.MULTILINE)
        in_use = re.search(rf"^{used_as}:\s+(\d+) kB", status, re.MULTILINE)
        if found:
            used_bytes = int(in_use[1]) * 1024 if in_use else 0
            yield _Limit(int(found[1]), used_bytes, f"limit of this process's {name} (ulimit {flag})")


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control group and of each parent, v2 and v1."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            base = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            base = root / "sys/fs/cgroup" / controllers
            base = base if base.exists() else root / "sys/fs/cgroup" / controller
        else:
            continue
        parts = [part for part in path.split("/") if part and part != ".."]
        # in a container the path may be the host's, and the mount shows only our part: skip folders that are missing
        for depth in range(len(parts), -1, -1):
            folder = base.joinpath(*parts[:depth])
            if folder.exists():
                yield folder


def _limit(file: Path) -> int:
    text = _read(file).strip()
    return int(text) if text.isdigit() else _NO_LIMIT


def _in_use(group: Path) -> int:
    """Bytes that the group cannot give back: its usage less the file cache that is not in active use."""
    used = _limit(group / "memory.current")
    used = _limit(group / "memory.usage_in_bytes") if used == _NO_LIMIT else used
    if used == _NO_LIMIT:
        return 0
    stat = dict(line.split()[:2] for line in _read(group / "memory.stat").splitlines() if len(line.split()) >= 2)
    return max(0, used - int(stat.get("total_inactive_file", stat.get("inactive_file", 0))))


def cores(root: Path) -> int:
    """Physical cores that this process may use, the fast kind only, cut to the CPU quota of its control groups."""
    allowed = sorted(getattr(os, "sched_getaffinity")(0)) if root == Path("/") else range(_n_cpus(root))  # noqa: B009
    cpu = root / "sys/devices/system/cpu"
    capacity = {n: _limit(cpu / f"cpu{n}/cpu_capacity") for n in allowed}
    fastest = max(capacity.values(), default=_NO_LIMIT)
    fast = [n for n, value in capacity.items() if value >= 0.6 * fastest]
    siblings = {_read(cpu / f"cpu{n}/topology/thread_siblings_list").strip() or str(n) for n in fast}
    quota = min([_quota(group) for group in _groups(root, "cpu")], default=math.inf)
    return max(1, min(len(siblings), math.ceil(quota) if quota < math.inf else len(siblings)))


def _n_cpus(root: Path) -> int:
    return len(list((root / "sys/devices/system/cpu").glob("cpu[0-9]*")))


def _quota(group: Path) -> float:
    """The CPU time that the group may use, in cores."""
    quota, _, period = _read(group / "cpu.max").strip().partition(" ")
    if not quota:
        quota, period = _read(group / "cpu.cfs_quota_us").strip(), _read(group / "cpu.cfs_period_us").strip()
    if quota.isdigit() and period.isdigit() and int(period) > 0 and int(quota) > 0:
        return int(quota) / int(period)
    return math.inf


def _cpuinfo(root: Path) -> str:
    return _read(root / "proc/cpuinfo")


def _chip(root: Path) -> str:
    match = re.search(r"^(?:model name|Hardware|Model)\s*:\s*(.+)$", _cpuinfo(root), re.MULTILINE)
    return match.group(1).strip() if match else platform.machine()


def _features(root: Path) -> frozenset[str]:
    """Features in one spelling: dotprod, i8mm, bf16, sve, sve2, sme, avx2, avx_vnni, avx512f, avx512_vnni, amx_int8."""
    match = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _cpuinfo(root), re.MULTILINE)
    words = set(match.group(1).split()) if match else set()
    if "asimddp" in words:
        words.add("dotprod")
    known = {"dotprod", "i8mm", "bf16", "sve", "sve2", "sme", "avx2", "fma", "f16c", "avx_vnni", "avx512f"}
    return frozenset(words & (known | {"avx512_vnni", "avx512_bf16", "amx_int8"}))


def _name(root: Path, chip: str) -> str:
    board = _read(root / "proc/device-tree/model").strip("\0\n ")
    return board or f"Linux {platform.machine()}, {chip}"


def _speed_class(devices: Devices, root: Path, chip: str, features: frozenset[str]) -> str:
    if "Raspberry Pi" in _name(root, chip):
        return "board"
    known = devices.chip_titled(chip, 0)
    if known:
        return known.speed
    return "x86-avx512" if "avx512f" in features else "x86" if "avx2" in features else "arm-cpu"


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

"""Devices by name, a person's own devices, and bandwidth."""

import json
from pathlib import Path

import pytest

from edgeinfer.device import devices as devices_module
from edgeinfer.device import load_devices, named, slugs
from edgeinfer.device.bandwidth import Copied, bandwidth
from edgeinfer.errors import UsageError

ASKED_FOR = {
    "macbook-air-m1-8gb",
    "macbook-air-m2-16gb",
    "macbook-pro-m3-pro-18gb",
    "macbook-pro-m4-max-64gb",
    "macbook-pro-m4-max-128gb",
    "macbook-pro-m5-24gb",
    "mac-mini-m4-16gb",
    "iphone-15",
    "iphone-15-pro",
    "iphone-16-pro",
    "iphone-17-pro",
    "iphone-17-pro-entitled",
    "ipad-pro-m4-16gb",
    "pixel-9-pro",
    "galaxy-s24",
    "oneplus-12",
    "raspberry-pi-5-8gb",
    "laptop-x86-32gb",
}

QUIET = Copied(7 * 10**9, cpu_share=0.97)


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_the_devices_that_are_promised() -> None:
    assert set(slugs()) >= ASKED_FOR


def test_a_phone_gives_a_process_far_less_than_it_has() -> None:
    phone = named("iphone-15-pro")
    assert phone.total_bytes == 8 << 30 and phone.ceiling_bytes == 3_376_000_000
    assert phone.named and phone.os == "ios"
    assert named("iphone-17-pro").ceiling_bytes < named("iphone-17-pro-entitled").ceiling_bytes


def test_every_figure_has_a_source() -> None:
    devices = load_devices()
    figures = [
        figure for device in devices.devices.values() for figure in (device.total_gib, device.os_gb, device.ceiling_mb)
    ]
    figures += [figure for chip in devices.chips.values() for figure in (chip.gb_per_s, chip.n_cores)]
    assert len(figures) > 100
    assert all(figure.source and figure.value > 0 for figure in figures)
    assert not [figure.source for figure in figures if " " not in figure.source]  # a key of no source table


def test_an_unknown_device_has_near_names() -> None:
    with pytest.raises(UsageError, match="unknown device: iphone-15-por") as caught:
        named("iphone-15-por")
    assert "iphone-15-pro" in caught.value.hint


def test_own_devices_are_laid_over(own_folders: Path) -> None:
    file = own_folders / "config" / "edgeinfer" / "devices.toml"
    file.parent.mkdir(parents=True)
    file.write_text(
        """
        [device.my-box]
        title = "My box"
        os = "linux"
        chip = "x86-ddr5-5600"
        total_gib = { is = 64, source = "the receipt", sure = "seen" }
        os_gb = { is = 2, source = "free -m", sure = "seen" }
        ceiling_mb = { is = 68000, source = "all", sure = "seen" }
        """
    )
    assert named("my-box").total_bytes == 64 << 30
    assert "iphone-15" in slugs()
    file.write_text(file.read_text().replace("ceiling_mb", "cieling_mb"))
    with pytest.raises(UsageError, match="`ceiling_mb` is missing"):
        slugs()
    file.write_text("[device.x]\n" + 'os = "beos"\nchip = "none"\n')
    with pytest.raises(UsageError, match="`os` must be one of"):
        slugs()


def test_a_figure_says_how_sure_it_is(own_folders: Path) -> None:
    file = own_folders / "own.toml"
    file.write_text('[chip.c]\ntitle = "C"\ngb_per_s = { is = 1, source = "x", sure = "very" }\n')
    with pytest.raises(UsageError, match="`sure` must be one of seen, derived, memory, estimate"):
        load_devices(file)


def test_bandwidth_is_measured_once_and_kept(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = load_devices()
    runs: list[int] = []
    monkeypatch.setattr("edgeinfer.device.bandwidth.measure", lambda n: runs.append(n) or QUIET)
    assert bandwidth(devices, "Some CPU", 8 << 30, 4) == (7 * 10**9, "measured copy")
    assert bandwidth(devices, "Some CPU", 8 << 30, 4) == (7 * 10**9, "measured copy, cached")
    assert bandwidth(devices, "Other CPU", 8 << 30, 4)[1] == "measured copy"
    assert runs == [4, 4]
    (file,) = (own_folders / "cache" / "edgeinfer").iterdir()
    assert len(json.loads(file.read_text())) == 2


def test_what_a_busy_machine_gave_is_said_and_not_kept(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([Copied(3 * 10**9, cpu_share=0.4), QUIET])
    monkeypatch.setattr("edgeinfer.device.bandwidth.measure", lambda n: next(found))
    busy = (3 * 10**9, "measured copy; measured while the machine was busy")
    assert bandwidth(load_devices(), "Some CPU", 8 << 30, 4) == busy
    assert not (own_folders / "cache").exists()
    assert bandwidth(load_devices(), "Some CPU", 8 << 30, 4) == (7 * 10**9, "measured copy")
    assert bandwidth(load_devices(), "Some CPU", 8 << 30, 4) == (7 * 10**9, "measured copy, cached")


@pytest.mark.parametrize(
    "text", ["{", "[1]", '{"Some CPU, 4 cores, 8 GiB": "fast"}', '{"Some CPU, 4 cores, 8 GiB": 1}']
)
def test_a_bad_cache_is_measured_again(own_folders: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("edgeinfer.device.bandwidth.measure", lambda n: QUIET)
    file = own_folders / "cache" / "edgeinfer" / "bandwidth.json"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    assert bandwidth(load_devices(), "Some CPU", 8 << 30, 4) == (7 * 10**9, "measured copy")


def test_a_cache_that_cannot_be_written_is_no_error(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeinfer.device.bandwidth.measure", lambda n: QUIET)
    (own_folders / "cache").write_text("a file where the folder should be")
    assert bandwidth(load_devices(), "Some CPU", 8 << 30, 4) == (7 * 10**9, "measured copy")


def test_a_real_measurement_is_a_plausible_number() -> None:
    from edgeinfer.device.bandwidth import measure

    found = measure(1)
    assert 10**8 < found.per_s < 10**13
    assert 0 < found.cpu_share < 1.5


def test_the_module_keeps_no_state() -> None:
    assert not [
        name for name, value in vars(devices_module).items() if isinstance(value, dict | list | set) and name[0] != "_"
    ]

"""Devices by name, and the user's own devices."""

from pathlib import Path

import pytest

from edgeinfer.device import devices as devices_module
from edgeinfer.device import load_devices, named, slugs
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


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_the_promised_devices_exist() -> None:
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
    assert not [
        figure.source for figure in figures if " " not in figure.source
    ]  # a key that the source table does not have


def test_an_unknown_device_gets_suggestions() -> None:
    with pytest.raises(UsageError, match="unknown device: iphone-15-por") as caught:
        named("iphone-15-por")
    assert "iphone-15-pro" in caught.value.hint


def test_a_users_devices_replace_built_in_ones(own_folders: Path) -> None:
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


def test_a_figure_says_how_certain_it_is(own_folders: Path) -> None:
    file = own_folders / "own.toml"
    file.write_text('[chip.c]\ntitle = "C"\ngb_per_s = { is = 1, source = "x", sure = "very" }\n')
    with pytest.raises(UsageError, match="`sure` must be one of seen, derived, memory, estimate"):
        load_devices(file)


def test_the_module_keeps_no_state() -> None:
    assert not [
        name for name, value in vars(devices_module).items() if isinstance(value, dict | list | set) and name[0] != "_"
    ]

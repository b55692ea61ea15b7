"""A zipped bundle is unpacked if every file matches the manifest, else refused with the cause."""

from __future__ import annotations

import random
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeinfer.cli.main import main
from edgeinfer.entries.files import entry_of_path
from edgeinfer.errors import ArtifactError
from edgeinfer.formats.bundle import check_bundle
from edgeinfer.formats.bundle_zip import unpack, unpacked
from edgeinfer.formats.manifest import MANIFEST, PROGRAM, TEMPLATE, TOKENIZER
from tests.executorch.bundles import write_bundle

NAMES = (MANIFEST, PROGRAM, TOKENIZER, TEMPLATE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "b")


def zipped(folder: Path, change: Callable[[zipfile.ZipFile], None] = lambda _: None, *, without: str = "") -> Path:
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
        for name in NAMES:
            if name != without:
                made.write(folder / name, name)
        change(made)
    return archive


def entry(name: str, **fields: int) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def cause(archive: Path) -> str:
    into = archive.with_name("into")
    with pytest.raises(ArtifactError) as caught:
        unpack(archive, into)
    assert "\n" not in str(caught.value)
    shutil.rmtree(into)
    return str(caught.value)


def test_a_zip_is_unpacked_once_and_is_a_model(folder: Path) -> None:
    archive = zipped(folder)
    found = unpacked(archive)
    assert check_bundle(found).manifest == check_bundle(folder).manifest
    at = (found / PROGRAM).stat().st_mtime_ns
    assert unpacked(archive) == found and (found / PROGRAM).stat().st_mtime_ns == at
    assert [path.name for path in found.parent.iterdir()] == [found.name]  # no scratch is left
    model = entry_of_path(archive)
    assert (model.name, model.artifacts[0].file) == ("b", str(found))


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "b/model.pte", "..\\evil", "model.pte/", "x" * 300, "NUL"])
def test_names_that_no_bundle_has_are_refused(folder: Path, name: str) -> None:
    assert "which does not belong in a bundle" in cause(zipped(folder, lambda made: made.writestr(name, b"x")))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_entries_that_no_bundle_has_are_refused(folder: Path) -> None:
    link, pipe = (kind << 16 for kind in (stat.S_IFLNK | 0o777, stat.S_IFIFO | 0o666))
    assert "holds a file twice" in cause(zipped(folder, lambda made: made.write(folder / PROGRAM, PROGRAM)))
    assert "holds no manifest.json" in cause(zipped(folder, without=MANIFEST))
    for kind in (link, pipe):
        tricked = entry(PROGRAM, external_attr=kind)
        archive = zipped(folder, lambda made, tricked=tricked: made.writestr(tricked, "/etc/passwd"), without=PROGRAM)  # type: ignore[misc]
        assert "as something that is not a regular file" in cause(archive)
    packed = entry(PROGRAM, compress_type=zipfile.ZIP_BZIP2)
    assert "in compression 12" in cause(zipped(folder, lambda made: made.writestr(packed, b"x"), without=PROGRAM))


def patched(archive: Path, old: bytes, new: bytes) -> Path:
    """Replaces `old` in the local headers and in the directory."""
    data = archive.read_bytes()
    assert data.count(old) >= 2
    archive.write_bytes(data.replace(old, new))
    return archive


def test_false_headers_are_refused(folder: Path) -> None:
    n_bytes = (folder / PROGRAM).stat().st_size
    archive = zipped(folder)
    with zipfile.ZipFile(archive) as opened:
        program, template = opened.getinfo(PROGRAM), opened.getinfo(TEMPLATE)
    short = (n_bytes - 1).to_bytes(4, "little")
    assert f"of {n_bytes - 1} bytes; its manifest says {n_bytes}" in cause(
        patched(zipped(folder), n_bytes.to_bytes(4, "little"), short)
    )
    data = bytearray(zipped(folder).read_bytes())
    central = data.rindex(PROGRAM.encode()) - 46
    data[central + 8] |= 1  # encrypted
    archive.write_bytes(data)
    assert "encrypted" in cause(archive)
    data = bytearray(zipped(folder).read_bytes())
    at = template.header_offset.to_bytes(4, "little")
    place = data.rindex(TEMPLATE.encode()) - 4
    assert data[place : place + 4] == at
    data[place : place + 4] = program.header_offset.to_bytes(4, "little")
    archive.write_bytes(data)
    assert "in the same place" in cause(archive)


def test_a_bomb_stops_at_the_size_that_the_manifest_states(folder: Path) -> None:
    n_bytes = (folder / PROGRAM).stat().st_size
    archive = zipped(folder, lambda made: made.writestr(PROGRAM, bytes(50_000_000)), without=PROGRAM)
    patched(archive, (50_000_000).to_bytes(4, "little"), n_bytes.to_bytes(4, "little"))
    assert "holds a damaged model.pte" in cause(archive)


def test_an_endless_manifest_is_refused(folder: Path) -> None:
    bomb = zipped(folder, lambda made: made.writestr(MANIFEST, b" " * 50_000_000), without=MANIFEST)
    assert "unpacks to more than 1048576 bytes" in cause(bomb)


def test_a_full_disk_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    assert "of the disk are free" in cause(zipped(folder))


def test_verify_unpacks_what_it_is_given_and_not_what_was_unpacked_before(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = zipped(folder)
    unpacked(archive)
    data = bytearray(archive.read_bytes())
    data[data.index(PROGRAM.encode()) + 40] ^= 1
    archive.write_bytes(data)
    assert main(["verify", str(archive)]) == ArtifactError.exit_code
    assert "holds a damaged model.pte" in capsys.readouterr().err


def test_two_hundred_damaged_archives_are_refused_or_harmless(folder: Path) -> None:
    """Truncated, with flipped bits or with random bytes: refused, or the files are unchanged."""
    rng = random.Random(1)
    whole = zipped(folder).read_bytes()
    archive, into = folder.with_suffix(".zip"), folder.with_name("into")
    n_refused = 0
    for _ in range(200):
        data = bytearray(whole)
        kind = rng.randrange(3)
        if kind == 0:
            del data[rng.randrange(len(data)) :]
        for _ in range(rng.randrange(1, 4) if kind else 0):
            data[rng.randrange(len(data))] = rng.randrange(256)
        archive.write_bytes(data)
        try:
            unpack(archive, into)
        except ArtifactError:
            n_refused += 1
        else:
            assert all((into / name).read_bytes() == (folder / name).read_bytes() for name in NAMES)
        shutil.rmtree(into)
    assert n_refused > 120

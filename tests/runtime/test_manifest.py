"""Two hundred bundles that differ from their manifests are refused by Python and by the phone, with the same cause."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeinfer.errors import ArtifactError
from edgeinfer.formats.bundle import check_bundle, check_files
from edgeinfer.formats.manifest import DRAFT_TOKENS, MANIFEST, PROGRAM, TEMPLATE, TOKENIZER
from tests.executorch.bundles import (
    Fields,
    changed,
    fields_of,
    keys_of,
    write_bundle,
    write_drafted_bundle,
    write_fields,
)
from tests.runtime.text_library import Refused, check_on_phone, needs_compiler

pytestmark = needs_compiler
FILES = (PROGRAM, TOKENIZER, TEMPLATE, DRAFT_TOKENS)


def cause_here(folder: Path) -> tuple[str, str]:
    """The error and hint of Python without the received value; "" and "" for a valid bundle."""
    try:
        check_files(check_bundle(folder))
    except ArtifactError as error:
        assert "\n" not in str(error)
        return str(error).partition("; received")[0], error.hint
    return "", ""


def cause_on_phone(folder: Path) -> tuple[str, str]:
    try:
        check_on_phone(folder)
    except Refused as error:
        return str(error), error.hint
    return "", ""


def refused_by_both(folder: Path) -> str:
    here, phone = cause_here(folder), cause_on_phone(folder)
    assert here == phone
    assert here[0], "a changed bundle was taken"
    return here[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "b")


@pytest.fixture
def drafted(tmp_path: Path) -> Path:
    return write_drafted_bundle(tmp_path / "drafted")


def test_a_valid_bundle_is_accepted_by_both(folder: Path, drafted: Path) -> None:
    assert cause_here(drafted) == cause_on_phone(drafted) == ("", "")
    assert cause_here(folder) == cause_on_phone(folder) == ("", "")


def cut(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def append(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randrange(1, 9)))


def remove(path: Path, rng: random.Random) -> None:
    del rng
    path.unlink()


def swap(path: Path, rng: random.Random) -> None:
    other = path.with_name(rng.choice([name for name in (*FILES, MANIFEST) if name != path.name]))
    data = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(data)


def link(path: Path, rng: random.Random) -> None:
    del rng
    target = path.parent.with_name("elsewhere")
    shutil.move(path, target)
    path.symlink_to(target)


def become_a_folder(path: Path, rng: random.Random) -> None:
    del rng
    path.unlink()
    path.mkdir()


def add_a_stranger(path: Path, rng: random.Random) -> None:
    path.with_name(rng.choice(("weights.bin", ".hidden", "model.pte.part", "Manifest.json"))).write_bytes(b"x")


MUTATIONS = (cut, flip, append, remove, swap, link, become_a_folder, add_a_stranger)


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_bundles_with_changed_files_are_refused_alike(
    tmp_path: Path, mutate: Callable[[Path, random.Random], None]
) -> None:
    rng = random.Random(mutate.__name__)
    for index in range(25):
        (tmp_path / str(index)).mkdir()
        folder = write_drafted_bundle(tmp_path / str(index) / "b")
        mutate(folder / rng.choice((*FILES, MANIFEST)), rng)
        assert str(folder) in refused_by_both(folder)


@pytest.mark.parametrize(
    "value", [..., None, True, -1, 0, 1.5, 1 << 31, 1 << 70, "x", "", [], [None], [-1], {}, {"x": 1}], ids=str
)
@pytest.mark.parametrize("write", [write_bundle, write_drafted_bundle], ids=["plain", "drafted"])
def test_manifests_with_a_changed_value_are_judged_alike(
    tmp_path: Path, write: Callable[[Path], Path], value: object
) -> None:
    """Each value is changed in turn, with a matching digest. Both give the same cause, and neither crashes."""
    folder = write(tmp_path / "b")
    fields = fields_of(folder)
    n_refused = 0
    for keys in keys_of(fields):
        write_fields(folder, changed(fields, keys, value))
        assert cause_here(folder) == cause_on_phone(folder), keys
        n_refused += bool(cause_here(folder)[0])
    assert n_refused > 50


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda f: f.update(schema_version=4), "is of schema 4; this version reads schemas 2 and 3"),
        (lambda f: f.update(policy="all"), "`policy` is 'all'; this version runs sinks-and-blocks"),
        (lambda f: f.update(target="coreml"), "`target` is 'coreml'; this version runs xnnpack"),
        (lambda f: f.update(kv_type="q4_0"), "`kv_type` is 'q4_0'; this version runs f32, f16, q8_0"),
        (lambda f: f.update(exit_layer=4), "`exit_layer` is 4; there are 4 layers"),
        (lambda f: f.update(stop_tokens=[288]), "`stop_tokens` names 288; there are 288 tokens"),
        (lambda f: f.update(surprise=1), "unknown key `surprise`"),
        (lambda f: f["files"].update({"../x": f["files"][PROGRAM]}), "`files` names '../x'; a bundle holds chat_"),
        (lambda f: f["golden"][0].update(second_logits=[1]), "`golden` has ids and logits of different numbers"),
        (lambda f: f["chat"]["thinking"].update(stripped=["robot"]), "`stripped` names 'robot', which is no role"),
    ],
)
def test_manifests_of_another_policy_or_schema_are_refused_alike(
    folder: Path, change: Callable[[Fields], None], cause: str
) -> None:
    fields = fields_of(folder)
    change(fields)
    write_fields(folder, fields)
    assert cause in refused_by_both(folder)


@pytest.mark.parametrize("kv_type", ["f32", "f16", "q8_0"])
def test_every_type_of_keys_and_values_is_taken(folder: Path, kv_type: str) -> None:
    write_fields(folder, fields_of(folder) | {"kv_type": kv_type})
    assert cause_here(folder) == cause_on_phone(folder) == ("", "")


def test_a_newer_schema_says_to_update(folder: Path) -> None:
    fields = fields_of(folder)
    write_fields(folder, fields | {"schema_version": 4})
    assert cause_on_phone(folder)[1] == "update edgeinfer"


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda f: f.update(schema_version=2), "`files` names draft_tokens.bin, and there is no `draft`"),
        (lambda f: f["draft"].update(kind="tree"), "`kind` is 'tree'; this version runs exit, feature"),
        (lambda f: f["draft"].update(taps=[]), "a feature draft needs 1 to 8 rising `taps` from 1 to 4"),
        (lambda f: f["draft"].update(taps=[2, 1]), "a feature draft needs 1 to 8 rising `taps` from 1 to 4"),
        (lambda f: f["draft"].update(taps=[5]), "a feature draft needs 1 to 8 rising `taps` from 1 to 4"),
        (lambda f: f["draft"].update(exit_layer=2), "and no `exit_layer`"),
        (lambda f: f["draft"].update(kind="exit"), "an exit draft needs an `exit_layer` from 1 to 3, and no `taps`"),
        (lambda f: f["draft"].update(n_ranked=289), "`n_ranked` is 289; there are 288 tokens"),
        (lambda f: f["draft"].update(n_ranked=199), "`files` must name draft_tokens.bin with 796 bytes"),
        (lambda f: f["draft"].update(agreement=[1.5]), "`agreement` must hold at most 16 shares from 0 to 1"),
        (lambda f: f.update(exit_layer=2), "`exit_layer` is 2; it is 0 in a bundle with a `draft`"),
        (lambda f: f["draft"].update(source_sha256="md5:1"), "not a digest"),
    ],
)
def test_drafts_that_do_not_fit_are_refused_alike(drafted: Path, change: Callable[[Fields], None], cause: str) -> None:
    fields = fields_of(drafted)
    change(fields)
    if fields["schema_version"] == 2:
        del fields["draft"]
    write_fields(drafted, fields)
    assert cause in refused_by_both(drafted)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"a": NaN}',
        '{"a": 1, "a": 2}',
        '{"a": [{"b": 1, "b": 1}]}',
        '"\\ud800"',
        "{}x",
        "[" * 90,
    ],
)
def test_a_manifest_that_is_no_json_object_is_refused_alike(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    assert refused_by_both(folder) == f"{folder / MANIFEST} is not JSON, or no object"


def test_a_manifest_that_is_too_long_or_not_utf_8_is_refused_alike(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b" " * ((1 << 20) + 1))
    assert "has more than 1048576 bytes" in refused_by_both(folder)
    (folder / MANIFEST).write_bytes(b"\xff\xfe{}")
    assert "is not JSON" in refused_by_both(folder)


def test_a_missing_folder_or_a_file_is_refused_alike(tmp_path: Path) -> None:
    (tmp_path / "b.zip").write_bytes(b"PK")
    assert "is a file; a bundle is a folder" in refused_by_both(tmp_path / "b.zip")
    assert "cannot be read: No such file or directory" in refused_by_both(tmp_path / "none")


def test_digests_of_large_files_are_correct(folder: Path) -> None:
    """Sizes around the block sizes of SHA-256 and of the reader."""
    rng = random.Random(1)
    fields = fields_of(folder)
    for n_bytes in (0, 1, 55, 56, 63, 64, 65, 1 << 20, (1 << 20) + 1):
        data = rng.randbytes(n_bytes)
        (folder / PROGRAM).write_bytes(data)
        fields["files"][PROGRAM] = {"n_bytes": n_bytes, "sha256": "sha256:" + hashlib.sha256(data).hexdigest()}
        write_fields(folder, fields)
        assert cause_here(folder) == cause_on_phone(folder) == ("", "")

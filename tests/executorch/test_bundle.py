"""Bundles from strangers: one that differs from its manifest is refused with the cause, before any engine reads it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeinfer.cli.main import main
from edgeinfer.entries.files import entry_of_path
from edgeinfer.errors import ArtifactError
from edgeinfer.formats.bundle import check_bundle, check_files, is_bundle
from edgeinfer.formats.manifest import MANIFEST, PROGRAM, TEMPLATE, TOKENIZER, sealed
from tests.executorch.bundles import CHAT, write_bundle

FILES = (PROGRAM, TOKENIZER, TEMPLATE)


def check(folder: Path) -> None:
    check_files(check_bundle(folder))


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    fields = json.loads((folder / MANIFEST).read_text())
    change(fields)
    (folder / MANIFEST).write_text(sealed(json.dumps(fields)))


def test_a_manifest_survives_a_round_trip(tmp_path: Path) -> None:
    bundle = check_bundle(write_bundle(tmp_path / "b"))
    check_files(bundle)
    manifest = bundle.manifest
    assert (manifest.tier, manifest.n_vocab, manifest.stop_tokens) == ("8da4w", 288, (0, 2))
    assert manifest.golden[0].logits == (1.5, -2.25)
    assert manifest.chat == CHAT
    assert manifest.memory.kv_bytes_per_position == 4 * 2 * 32 * 2 * 4  # layers, heads, values, K and V, bytes
    assert is_bundle(tmp_path / "b")


def test_a_bundle_is_a_model_that_the_plan_can_take(tmp_path: Path) -> None:
    entry = entry_of_path(write_bundle(tmp_path / "my-model"))
    assert (entry.name, entry.title, entry.license, entry.exit_layer) == ("my-model", "a model", "apache-2.0", 2)
    assert entry.shape.limit == 2048
    assert [(artifact.backend, artifact.tier) for artifact in entry.artifacts] == [("executorch", "8da4w")]


def test_show_and_export_know_a_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_bundle(tmp_path / "b")
    assert main(["show", str(folder), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["title"], shown["license"]) == ("a model", "apache-2.0")
    assert shown["files"][0]["base_model"] == "Somebody/Base-1B"
    assert main(["export", str(folder), "--out", str(tmp_path / "out")]) == ArtifactError.exit_code
    assert "is a bundle already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda f: f.update(schema_version=4), "schema 4; this version reads schemas 2 and 3"),
        (lambda f: f.update(schema_version=3), "`draft` is missing"),
        (lambda f: f.update(schema_version=1), "schema 1; this version reads schemas 2 and 3"),
        (lambda f: f.update(policy="all"), "`policy` is 'all'; this version runs sinks-and-blocks"),
        (lambda f: f.update(target="coreml"), "`target` is 'coreml'; this version runs xnnpack"),
        (lambda f: f.update(kv_type="q4_0"), "`kv_type` is 'q4_0'; this version runs f32, f16, q8_0"),
        (lambda f: f.update(stop_tokens=[288]), "`stop_tokens` names 288; there are 288 tokens"),
        (lambda f: f["chat"]["thinking"]["cut"].update(strips="all"), "`strips` is 'all'"),
        (lambda f: f["chat"]["thinking"].update(stripped=["robot"]), "names 'robot', which is no role"),
        (lambda f: f.pop("tier"), "`tier` is missing"),
        (lambda f: f.update(surprise=1), "unknown key `surprise`"),
        (lambda f: f.update(n_layers=0), "`n_layers` is 0"),
        (lambda f: f.update(n_vocab=1 << 40), "`n_vocab` is 1099511627776"),
        (lambda f: f.update(exit_layer=4), "`exit_layer` is 4; there are 4 layers"),
        (lambda f: f.update(stop_tokens=[-1]), "not a token id"),
        (lambda f: f.update(source_sha256="md5:1"), "not a digest"),
        (lambda f: f["files"].pop("model.pte"), "does not name model.pte"),
        (lambda f: f["files"].update({"../x": f["files"]["model.pte"]}), "names '../x'"),
        (lambda f: f["files"]["model.pte"].update(n_bytes=7), "has 2048 bytes; its manifest says 7"),
        (lambda f: f["files"]["model.pte"].update(sha256="sha256:" + "1" * 64), "was changed"),
        (lambda f: f["golden"][0].update(logits=[1.0]), "ids and logits of different numbers"),
        (lambda f: f["golden"][0].update(logits=[1e31, 0.0]), "finite"),
    ],
)
def test_an_invalid_manifest_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], None], cause: str) -> None:
    folder = write_bundle(tmp_path / "b")
    edit(folder, change)
    with pytest.raises(ArtifactError) as caught:
        check(folder)
    assert cause in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_the_manifest_does_not_name_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b")
    (folder / "weights.bin").write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"holds 'weights\.bin'"):
        check(folder)


def test_an_archive_of_a_bundle_is_refused_with_what_to_do(tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "b"), "zip", write_bundle(tmp_path / "b"))
    with pytest.raises(ArtifactError, match="is a file; a bundle is a folder") as caught:
        check(Path(archive))
    assert caught.value.hint == "unpack an archive first"


def test_a_link_is_refused_even_if_its_content_is_right(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b")
    shutil.move(folder / PROGRAM, tmp_path / "elsewhere")
    (folder / PROGRAM).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="not a regular file"):
        check(folder)


def cut(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def replace_by_another(path: Path, rng: random.Random) -> None:
    other = rng.choice([name for name in FILES if name != path.name])
    shutil.copyfile(path.with_name(other), path)


def remove(path: Path, rng: random.Random) -> None:
    del rng
    path.unlink()


def append(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randrange(1, 9)))


@pytest.mark.parametrize("mutate", [cut, flip, replace_by_another, remove, append], ids=lambda mutate: mutate.__name__)
def test_forty_mutations_of_the_files_are_refused(
    tmp_path: Path, mutate: Callable[[Path, random.Random], None]
) -> None:
    rng = random.Random(mutate.__name__)
    whole = write_bundle(tmp_path / "whole")
    check(whole)
    for index in range(40):
        folder = tmp_path / str(index)
        shutil.copytree(whole, folder)
        path = folder / rng.choice(FILES)
        mutate(path, rng)
        with pytest.raises(ArtifactError) as caught:
            check(folder)
        assert path.name in str(caught.value)


def test_a_manifest_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    folder, rng = write_bundle(tmp_path / "b"), random.Random(1)
    whole = (folder / MANIFEST).read_bytes()
    for _ in range(200):
        (folder / MANIFEST).write_bytes(whole)
        flip(folder / MANIFEST, rng)
        with pytest.raises(ArtifactError):
            check(folder)

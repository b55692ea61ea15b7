"""Split models: any part stands for the whole, each part is checked, and answers equal those of a single file."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from edgeinfer.entries.files import entry_of_path
from edgeinfer.errors import ArtifactError
from edgeinfer.formats import GgufHeader, check_artifact
from edgeinfer.formats.gguf_header import read_header
from tests import gguf_bytes as g
from tests.tiny_gguf import Tiny, write_tiny

U16 = 2
g.CODES[U16] = "H"


def part(folder: Path, number: int, n: int, listed: list[g.Tensor], **changes: object) -> Path:
    """Part `number` (from 1) as gguf-split writes it: only the first has metadata, and tensors start at offset 0."""
    says = {"no": number - 1, "count": n, "total": len(g.SHAPES)} | changes
    keys: dict[str, g.Typed] = {
        "split.no": (U16, says["no"]),
        "split.count": (U16, says["count"]),
        "split.tensors.count": (g.I32, says["total"]),
    }
    raw = g.header((g.KEYS if number == 1 else {}) | keys, listed)
    path = folder / f"m-{number:05}-of-{n:05}.gguf"
    path.write_bytes(raw + b"\0" * (-len(raw) % 32 + 64 * 1024))
    return path


def in_three(folder: Path, **second: object) -> list[Path]:
    names = list(g.SHAPES)
    thirds = [names[:3], names[3:7], names[7:]]
    tensors = [g.tensors({name: g.SHAPES[name] for name in third}) for third in thirds]
    return [part(folder, i + 1, 3, tensors[i], **(second if i == 1 else {})) for i in range(3)]


def test_any_part_stands_for_the_whole_model(tmp_path: Path) -> None:
    paths = in_three(tmp_path)
    for path in paths:
        header = check_artifact(path)
        assert isinstance(header, GgufHeader)
        assert header.parts == tuple(paths)
        assert set(header.by_name) == set(g.SHAPES)
        assert header.file_bytes == sum(one.stat().st_size for one in paths)
        entry = entry_of_path(path)
        assert (entry.name, [artifact.backend for artifact in entry.artifacts]) == ("m-00001-of-00003", ["gguf"])
        assert entry.artifacts[0].file == str(paths[0])


@pytest.mark.parametrize("gone", [(1,), (2,), (3,), (1, 3)])
def test_missing_parts_are_named(tmp_path: Path, gone: tuple[int, ...]) -> None:
    paths = in_three(tmp_path)
    for number in gone:
        paths[number - 1].unlink()
    here = next(path for path in paths if path.exists())
    with pytest.raises(
        ArtifactError, match="missing: " + ", ".join(f"m-0000{n}-of-00003.gguf" for n in gone)
    ) as caught:
        check_artifact(here)
    assert "all parts into one folder" in caught.value.hint


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"no": 2}, "says that it is part 2"),
        ({"no": 0}, "says that it is part 0"),
        ({"count": 4}, "of 4"),
    ],
)
def test_a_part_of_another_model_is_refused(tmp_path: Path, second: dict[str, object], message: str) -> None:
    paths = in_three(tmp_path, **second)
    with pytest.raises(ArtifactError, match=message):
        check_artifact(paths[0])


def test_every_part_is_checked(tmp_path: Path) -> None:
    paths = in_three(tmp_path)
    total = re.compile(rb"(split\.tensors\.count.{4}).{4}", re.DOTALL)
    cases = (
        (2, paths[2].read_bytes()[:100], "needs|ends"),
        (1, b"\x80\x04.....", "is not a GGUF file"),
        (1, paths[2].read_bytes(), "says that it is part 2"),
        (0, total.sub(rb"\g<1>" + struct.pack("<i", 99), paths[0].read_bytes()), "99 are declared"),
    )
    for number, raw, message in cases:
        good = paths[number].read_bytes()
        paths[number].write_bytes(raw)
        for path in (paths[0], paths[2]):
            with pytest.raises(ArtifactError, match=message):
                check_artifact(path)
        paths[number].write_bytes(good)
    part(tmp_path, 2, 3, g.tensors({name: g.SHAPES[name] for name in list(g.SHAPES)[:4]}))
    with pytest.raises(ArtifactError, match="two parts hold a tensor of one name"):
        check_artifact(paths[0])


def test_a_part_under_another_name_is_refused(tmp_path: Path) -> None:
    path = in_three(tmp_path)[0].rename(tmp_path / "model.gguf")
    with pytest.raises(ArtifactError, match="not named like one"):
        check_artifact(path)


def split(whole: Path, folder: Path, n: int) -> list[Path]:
    """`whole` in `n` files, written by the gguf package with the same tensors."""
    import gguf

    reader, header = gguf.GGUFReader(whole), read_header(whole)
    paths, tensors = [], list(reader.tensors)
    step = -(-len(tensors) // n)
    for number in range(n):
        path = folder / f"tiny-{number + 1:05}-of-{n:05}.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        if number == 0:
            for field in reader.fields.values():
                if field.name.startswith("GGUF.") or field.name == "general.architecture":
                    continue
                sub = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=sub)
        writer.add_key_value("split.no", number, gguf.GGUFValueType.UINT16)
        writer.add_key_value("split.count", n, gguf.GGUFValueType.UINT16)
        writer.add_key_value("split.tensors.count", len(header.tensors), gguf.GGUFValueType.INT32)
        for tensor in tensors[number * step : (number + 1) * step]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        paths.append(path)
    return paths


def test_answers_from_parts_equal_those_from_one_file(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="the engine is not here")
    import edgeinfer
    from edgeinfer.types import Sampling

    whole = write_tiny(tmp_path / "tiny.gguf", Tiny())
    answers = []
    for path in (whole, split(whole, tmp_path, 3)[1]):
        request = edgeinfer.Request(
            model=str(path), backend="gguf", context=512, sink=64, min_tokens_per_s=0.001, speculation="off"
        )
        with edgeinfer.load(request) as model:
            answers.append(model.generate("the rain", sampling=Sampling(temperature=0.0), max_tokens=16).tokens)
    assert answers[0] == answers[1]
    assert len(answers[0]) == 16

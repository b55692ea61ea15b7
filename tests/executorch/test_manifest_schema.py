"""The JSON schema of the manifest, meant for apps, agrees with our reader."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from edgeinfer import formats
from edgeinfer.errors import ArtifactError
from edgeinfer.formats.bundle import check_bundle
from tests.executorch.bundles import (
    Fields,
    Keys,
    changed,
    fields_of,
    keys_of,
    write_bundle,
    write_drafted_bundle,
    write_fields,
)
from tests.executorch.exported import bundle_of, missing
from tests.tiny_gguf import Tiny, write_tiny

SCHEMA = json.loads((Path(formats.__file__).parent / "manifest.schema.json").read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)
FREE = {("exporter",), ("methods",), ("operators",)}
OPTIONAL = {("files", "chat_template.jinja"), ("golden",)}


@pytest.fixture(params=[write_bundle, write_drafted_bundle], ids=["plain", "drafted"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    written: Path = request.param(tmp_path / "b")
    return written


def both(folder: Path, fields: Fields) -> tuple[bool, bool]:
    """Whether the schema and our reader accept these fields."""
    write_fields(folder, fields)
    try:
        check_bundle(folder)
    except ArtifactError:
        return VALIDATOR.is_valid(fields), False
    return VALIDATOR.is_valid(fields), True


def keys(fields: Fields) -> list[Keys]:
    """Of all values but those under free keys."""
    return [keys for keys in keys_of(fields) if len(keys) == 1 or keys[:1] not in FREE]


def test_the_schema_is_valid_and_accepts_a_manifest(folder: Path) -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert both(folder, fields_of(folder)) == (True, True)


def test_a_manifest_without_a_key_is_refused_by_both(folder: Path) -> None:
    fields = fields_of(folder)
    named = [path for path in keys(fields) if isinstance(path[-1], str) and path not in OPTIONAL]
    assert len(named) > 30
    for path in named:
        assert both(folder, changed(fields, path, ...)) == (False, False), path


@pytest.mark.parametrize("value", [None, True, -1, 1 << 31, "x", [None], {"x": 1}], ids=str)
def test_a_value_that_the_schema_refuses_is_refused_by_the_reader(folder: Path, value: object) -> None:
    fields = fields_of(folder)
    n_refused = 0
    for path in keys(fields):
        by_schema, by_reader = both(folder, changed(fields, path, value))
        assert by_schema or not by_reader, path
        n_refused += not by_schema
    assert n_refused > 10


def test_an_unknown_key_is_refused_by_both(folder: Path) -> None:
    fields = fields_of(folder)
    for path in ((), ("files", "model.pte"), ("golden", 0), *[("draft",)] * ("draft" in fields)):
        assert both(folder, changed(fields, (*path, "surprise"), 1)) == (False, False), path


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_what_an_export_writes_fits_the_schema(tmp_path: Path) -> None:
    fields = fields_of(bundle_of(write_tiny(tmp_path / "llama-F32.gguf", Tiny()), "fp32"))
    VALIDATOR.validate(fields)
    assert set(fields["methods"]) == {"front", "exit_head", "verify"}
    assert fields["methods"]["verify"]["inputs"] == ["float32[1, n_tokens, 128]", "int64[4]", "int64[n_rows]"]
    assert "Tensor q, Tensor k, Tensor v" in fields["operators"]["edgeinfer.ring_attend.out"]
    assert fields["chat"]["thinking"]["user"]["before"] == "<|im_start|>user\n"
    golden = fields["golden"][0]
    assert all(first >= second for first, second in zip(golden["logits"], golden["second_logits"], strict=True))

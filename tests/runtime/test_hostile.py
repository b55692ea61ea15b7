"""20,000 mutations each of a manifest, a tokenizer and chat pieces, under ASan and UBSan: no crash, no hang."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from edgeinfer.formats.chat_pieces import chat_fields
from edgeinfer.formats.manifest import MANIFEST
from tests.executorch.bundles import CHAT, write_bundle
from tests.object_cache import CompilerError
from tests.runtime.built import without_executorch
from tests.runtime.sanitized import flags_of
from tests.runtime.test_tokenizer import small
from tests.runtime.text_library import needs_compiler, text_sources

FUZZ = Path(__file__).with_name("fuzz_text.cpp")
N = 20_000
TIMEOUT_S = 200

pytestmark = needs_compiler


@pytest.fixture(scope="module")
def fuzz() -> Path:
    try:
        return without_executorch(text_sources(), FUZZ, *flags_of("address,undefined"))
    except CompilerError as error:
        pytest.skip(f"this compiler has no sanitizers: {error}")


def test_no_mutation_crashes_a_reader(fuzz: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "b")
    spaced = {**small(), "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}}
    files = {
        "m": (tmp_path / "b" / MANIFEST).read_text(encoding="utf-8"),
        "t": json.dumps(small(), indent=1),
        "c": json.dumps(chat_fields(CHAT), indent=1),
        "t ": json.dumps(spaced, indent=1),
    }
    for kind, text in files.items():
        path = tmp_path / "seed.json"
        path.write_text(text, encoding="utf-8")
        command = [str(fuzz), kind[0], str(path), str(N), "1"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
        assert done.returncode == 0, done.stderr[-3000:]
        taken = re.fullmatch(r"(\d+) of 20000 taken\n", done.stdout)
        assert taken is not None and int(taken[1]) > N // 100, done.stdout  # some get past the parser

"""What opening a bundle reads, checks and keeps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edgeinfer.formats.manifest import MANIFEST, PROGRAM, sealed
from tests.runtime.built import Runtime
from tests.runtime.child import in_child
from tests.runtime.library import ARTIFACT, AUTO, Library, Refused

CONTEXT = 320


@in_child
def test_an_estimate_reads_the_manifest_alone(built: Runtime, tiny: Path, tmp_path: Path) -> None:
    library = Library(built.library)
    empty = Path(shutil.copytree(tiny, tmp_path / "empty"))
    (empty / PROGRAM).write_bytes(bytes((tiny / PROGRAM).stat().st_size))
    unread, whole = (library.estimate(folder, context=CONTEXT) for folder in (empty, tiny))
    assert bytes(unread) == bytes(whole)
    memory = json.loads((tiny / MANIFEST).read_text(encoding="utf-8"))["memory"]
    assert whole.session_bytes == CONTEXT * memory["kv_bytes_per_position"]
    assert whole.packed_bytes == memory["packed_bytes"]
    with pytest.raises(Refused, match="is not a sound program"):
        library.open(empty, context=CONTEXT)


@in_child
def test_a_manifest_of_another_program_is_refused(built: Runtime, tiny: Path, tmp_path: Path) -> None:
    library = Library(built.library)
    for name, value, program in (("limit", 1024, 2048), ("exit_layer", 1, 2)):
        bundle = Path(shutil.copytree(tiny, tmp_path / name))
        fields = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
        fields[name] = value
        (bundle / MANIFEST).write_text(sealed(json.dumps(fields)), encoding="utf-8")
        with pytest.raises(Refused) as caught:
            library.open(bundle, context=CONTEXT)
        assert (caught.value.code, caught.value.hint) == (ARTIFACT, "export the model again")
        assert caught.value.cause == f"{bundle}: the manifest says {name} {value}, the program {program}"


@in_child
def test_costs_are_measured_once_for_each_program(built: Runtime, tiny: Path, demo: Path, tmp_path: Path) -> None:
    """They lie beside the packed weights, under the same key."""
    library = Library(built.library)

    def costs_after(bundle: Path) -> dict[str, bytes]:
        library.open(bundle, context=CONTEXT, drafting=AUTO, cache_folder=str(tmp_path).encode()).close()
        return {path.stem: path.read_bytes() for path in tmp_path.glob("*.costs")}

    first = costs_after(tiny)
    assert first.keys() == {path.stem for path in tmp_path.glob("*.packed")} and len(first) == 1
    assert costs_after(tiny) == first
    both = costs_after(demo)
    assert len(both) == 2 and first.items() <= both.items()

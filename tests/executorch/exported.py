"""Bundles for tests, exported once and kept in pytest's cache folder under a digest of their inputs."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

from filelock import FileLock

from edgeinfer.backends.executorch.facts import kv_bytes_per_position
from edgeinfer.backends.executorch.golden import record
from edgeinfer.formats.bundle import check_bundle
from edgeinfer.formats.manifest import write_manifest
from edgeinfer.types import KvType
from tests.object_cache import LAUNCHER
from tests.tiny_draft import draft_beside

ROOT = Path(__file__).parents[2]
_EXPORT = (
    "import sys; from pathlib import Path; from edgeinfer.entries.files import entry_of_path; "
    "from edgeinfer.runner.exporting import export, found_draft; "
    "from edgeinfer.backends.executorch.export.bundle import Storage; "
    "model = Path(sys.argv[1]); found = found_draft(entry_of_path(model)); "
    "export(model, Path(sys.argv[2]), Storage(sys.argv[3], draft=found.file))"
)
KEPT = ROOT / ".pytest_cache/executorch"


@cache
def missing() -> str:
    """Why bundles cannot be exported and run on this machine; "" if they can."""
    absent = [name for name in ("torch", "torchao", "executorch") if importlib.util.find_spec(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed: pip install 'edgeinfer[export]'"
    from edgeinfer.backends.executorch.build import check_buildable
    from edgeinfer.errors import BackendError

    try:
        check_buildable()
    except BackendError as error:
        return str(error)
    return ""


def bundle_of(model: Path, tier: str) -> Path:
    """The bundle of `model` with the draft beside it, exported again only when these or the exporter changed."""
    keep_compiled_engine()
    out = KEPT / f"{model.stem}-{tier}-{_digest(model)}"
    with FileLock(f"{out}.lock"):
        if not out.exists():
            # in a separate process, because importing torch warns and warnings fail tests
            subprocess.run([sys.executable, "-c", _EXPORT, str(model), str(out), tier], check=True, cwd=ROOT)
    return out


def with_kv_type(bundle: Path, kv_type: KvType) -> Path:
    """The bundle of `bundle_of` as an export with `kv_type` makes it: the program does not depend on that."""
    out = bundle.with_name(f"{bundle.name}-{kv_type}")
    with FileLock(f"{out}.lock"), tempfile.TemporaryDirectory(dir=KEPT) as scratch:
        if not out.exists():
            folder = Path(scratch) / out.name
            shutil.copytree(bundle, folder)
            manifest = check_bundle(folder).manifest
            memory = replace(manifest.memory, kv_bytes_per_position=kv_bytes_per_position(manifest.shape, kv_type))
            write_manifest(folder, replace(manifest, kv_type=kv_type, memory=memory, golden=(), exact_rows=0))
            record(folder)
            folder.rename(out)
    return out


def keep_compiled_engine() -> None:
    """Tests have a cache folder of their own each time; the compiled engine is kept beside the bundles."""
    os.environ["CMAKE_CXX_COMPILER_LAUNCHER"] = LAUNCHER
    kept = KEPT / "engine"
    kept.mkdir(parents=True, exist_ok=True)
    folder = Path(os.environ["XDG_CACHE_HOME"]) / "edgeinfer/executorch"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(kept)


def _digest(model: Path) -> str:
    from importlib.metadata import version

    state = hashlib.sha256(model.read_bytes() + version("executorch").encode() + version("torch").encode())
    if draft_beside(model).exists():
        state.update(draft_beside(model).read_bytes())
    exporter = sorted((ROOT / "edgeinfer/backends/executorch/export").glob("*.py"))
    for source in (*exporter, ROOT / "edgeinfer/formats/manifest.py", ROOT / "edgeinfer/formats/chat_pieces.py"):
        state.update(source.read_bytes())
    return state.hexdigest()[:16]

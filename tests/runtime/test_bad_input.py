"""Bad input is refused with one line, a hint and an error code; nothing breaks."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from ctypes import byref, c_void_p
from pathlib import Path

import pytest

from edgeinfer.formats.manifest import MANIFEST, sealed
from tests.runtime.built import Runtime
from tests.runtime.child import in_child
from tests.runtime.library import (
    ARTIFACT,
    CANCELED,
    ENGINE,
    USAGE,
    VERSION,
    AnswerOptions,
    Error,
    Library,
    Options,
    Refused,
    Said,
    open_options,
)

CONTEXT = 320


def refused(cause: str, code: int = USAGE) -> pytest.RaisesExc[Refused]:
    return pytest.RaisesExc(Refused, match=cause, check=lambda error: error.code == code and "\n" not in error.cause)


@in_child
def test_values_out_of_range_are_refused(built: Runtime, tiny: Path) -> None:
    library = Library(built.library)
    for options, cause in (
        ({"context": 100}, "context must hold 256 recent tokens and the sink; received 100"),
        ({"context": 1 << 40}, "context must not pass the model's 2048 positions; received 1099511627776"),
        ({"context": 512, "sink": 400}, "context must hold 256 recent tokens"),
        ({"n_sessions": 0}, "n_sessions must be at least 1; received 0"),
        ({"drafting": 9}, "drafting must be one of edgeinfer_drafting; received 9"),
    ):
        with refused(cause):
            library.open(tiny, **options)
        with refused(cause):
            library.estimate(tiny, **options)
    session = library.open(tiny, context=CONTEXT).session()
    for answer, cause in (
        ({"temperature": -1.0}, "temperature must be from 0 to 100; received -1"),
        ({"temperature": 1e-9}, "temperature must be 0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top-p must be from 1e-06 to 1; received 0"),
        ({"top_k": -1}, "top-k must be from 0"),
        ({"min_p": 2.0}, "min-p must be from 0 to 1; received 2"),
        ({"repeat_penalty": 0.0}, "repeat-penalty must be from 0.001"),
        ({"presence_penalty": 3.0}, "presence-penalty must be from -2 to 2; received 3"),
        ({"max_tokens": 0}, "max_tokens must be at least 1; received 0"),
        ({"stops": [""]}, "a stop string must not be empty"),
    ):
        with refused(cause):
            session.generate([5, 6], **answer)
    for seed in (-(1 << 63), (1 << 63) - 1):
        assert len(session.generate([5, 6], temperature=1.0, seed=seed, max_tokens=3).tokens) > 0


@in_child
def test_invalid_prompts_are_refused(built: Runtime, tiny: Path) -> None:
    library = Library(built.library)
    model = library.open(tiny, context=CONTEXT, sink=64, n_sessions=2)
    session = model.session()
    for prompt, cause in (
        ([], "the prompt is empty"),
        ([288], "token 288 is not in the vocabulary: ids are 0 to 287"),
        ([-1], "token -1 is not in the vocabulary"),
        ([5] * 2049, "the newest message needs 2049 positions, the model has 2048"),
    ):
        with refused(cause):
            session.generate(prompt, max_tokens=2)
    with refused("the message holds bytes that are not UTF-8"):
        session.chat(b"caf\xe9")
    with refused("the system prompt holds bytes that are not UTF-8"):
        model.session(b"\xff\xfe")
    with refused("the newest message needs"):
        session.chat("word " * 3000)
    with refused("the system prompt has [0-9]+ tokens, the window keeps 64"):
        model.session("You are a very long system prompt. " * 40).chat("Hi")
    assert session.n_messages == 0
    assert session.generate([5, 6], max_tokens=2).stats["emitted"] == 2


@in_child
def test_structs_of_another_version_and_null_are_refused(built: Runtime, tiny: Path) -> None:
    library = Library(built.library)
    error, handle = Error(), c_void_p()
    wrong = Options(ctypes.sizeof(Options) - 8, VERSION)
    future = open_options({})
    future.version = VERSION + 1
    for options in (wrong, future):
        assert library.c.edgeinfer_open(str(tiny).encode(), byref(options), byref(handle), byref(error)) == USAGE
        assert error.cause == f"options is not of version {VERSION} of edgeinfer.h".encode() and error.hint
    assert library.c.edgeinfer_open(None, None, byref(handle), byref(error)) == USAGE
    assert library.c.edgeinfer_open(str(tiny).encode(), None, None, None) == USAGE
    session = library.open(tiny, context=CONTEXT).session()
    answer = AnswerOptions(ctypes.sizeof(AnswerOptions), VERSION, max_tokens=1, n_stops=3)
    ids = (ctypes.c_int32 * 1)(5)
    assert library.c.edgeinfer_generate(session.handle, ids, 1, byref(answer), None, None, None, byref(error)) == USAGE
    assert error.cause == b"stops is NULL"
    assert library.c.edgeinfer_chat(session.handle, None, None, None, None, None, byref(error)) == USAGE
    for nothing in ("close", "session_free", "cancel", "trim_memory"):
        library.c[f"edgeinfer_{nothing}"](None)


@in_child
def test_broken_bundles_are_refused(built: Runtime, tiny: Path, tmp_path: Path) -> None:
    library = Library(built.library)

    def changed(name: str) -> Path:
        return Path(shutil.copytree(tiny, tmp_path / name))

    with refused("cannot be read|is not a bundle|missing", ARTIFACT):
        library.open(tmp_path / "nothing")
    cut = changed("cut")
    os.truncate(cut / "model.pte", 1000)
    with refused("model.pte has 1000 bytes; its manifest says", ARTIFACT):
        library.open(cut)
    newer = changed("newer")
    manifest = json.loads((newer / "manifest.json").read_text())
    (newer / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 99}))
    with refused("is of schema 99", ARTIFACT):
        library.open(newer)
    for name, before, after, cause, code in (
        ("another operator", b"ring_attend", b"ring_attent", "kernel 'edgeinfer::ring_attent.out' not found", ENGINE),
        ("no program", b"ET12", b"ET99", "is not a sound program", ARTIFACT),
    ):
        program = changed(name) / "model.pte"
        program.write_bytes(program.read_bytes().replace(before, after))
        with refused(cause, code) as caught:
            library.open(program.parent)
        assert caught.value.hint == "export the model again"
    link = changed("link")
    (link / "model.pte").unlink()
    (link / "model.pte").symlink_to(tiny / "model.pte")
    with refused("model.pte is missing, or is not a regular file", ARTIFACT):
        library.open(link)
    library.open(tiny, context=CONTEXT).close()


@in_child
def test_a_bundle_that_is_replaced_while_it_is_open(built: Runtime, tiny: Path, tmp_path: Path) -> None:
    """The open file stays in use; the next opening reads the new one."""
    mine = Path(shutil.copytree(tiny, tmp_path / "mine"))
    library = Library(built.library)
    session = library.open(mine, context=CONTEXT).session()
    before = session.generate([5, 6, 7], max_tokens=5).tokens
    (tmp_path / "other").write_bytes(b"no program")
    (tmp_path / "other").replace(mine / "model.pte")
    (mine / "tokenizer.json").unlink()
    assert session.generate([5, 6, 7, 8], max_tokens=5).stats["emitted"] == 5
    session.cancel()
    assert session.generate([5, 6, 7], max_tokens=5).tokens == before
    with refused("model.pte has 10 bytes|tokenizer.json is missing", ARTIFACT):
        library.open(mine)


@in_child
def test_a_cache_folder_that_cannot_keep_weights(built: Runtime, tiny: Path, tmp_path: Path) -> None:
    """Weights of another bundle, truncated weights, an impossible folder: answers are the same, and a note says why."""
    library = Library(built.library)
    expected = library.open(tiny, context=CONTEXT).session().generate([5, 6, 7], max_tokens=8).tokens

    def opened(folder: Path) -> tuple[str, list[int]]:
        model = library.open(tiny, context=CONTEXT, cache_folder=str(folder).encode())
        note = model.info().note.decode()
        tokens = model.session().generate([5, 6, 7], max_tokens=8).tokens
        model.close()
        return note, tokens

    cache = tmp_path / "cache"
    assert opened(cache) == ("", expected)
    (packed,) = cache.glob("*.packed")
    whole = packed.read_bytes()
    for content in (whole[: len(whole) // 2], b"", bytes(len(whole)), os.urandom(len(whole))):
        packed.write_bytes(content)
        assert opened(cache) == ("", expected)
    assert packed.read_bytes() == whole
    (tmp_path / "file").write_text("no folder")
    note, tokens = opened(tmp_path / "file")
    assert (note, tokens) == (f"weights are packed in memory: {tmp_path}/file cannot be written", expected)
    note, tokens = opened(tmp_path / ("long" * 60))
    assert note.startswith("weights are packed in memory: ") and tokens == expected


@in_child
def test_a_cache_folder_on_a_full_disk(built: Runtime, tiny: Path, tmp_path: Path) -> None:
    """Weights of more bytes than are free are packed in memory, also where an opening was cut short before."""
    library = Library(built.library)
    whole = library.open(tiny, context=CONTEXT, cache_folder=str(tmp_path / "cache").encode())
    expected = whole.session().generate([5, 6, 7], max_tokens=8).tokens
    (packed,) = (tmp_path / "cache").glob("*.packed")
    os.truncate(packed, packed.stat().st_size // 2)

    large = Path(shutil.copytree(tiny, tmp_path / "large"))
    fields = json.loads((large / MANIFEST).read_text(encoding="utf-8"))
    fields["memory"]["packed_bytes"] = 10**15
    (large / MANIFEST).write_text(sealed(json.dumps(fields)), encoding="utf-8")
    for folder in (tmp_path / "cache", tmp_path / "new"):
        model = library.open(large, context=CONTEXT, cache_folder=str(folder).encode())
        note = model.info().note.decode()
        assert note.startswith(f"weights are packed in memory: {folder} has ")
        assert note.endswith(" MB free of the 1000000016 MB needed")
        assert model.session().generate([5, 6, 7], max_tokens=8).tokens == expected


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no small disk can be mounted without unshare")
def test_the_program_with_a_disk_of_one_megabyte(built: Runtime, tiny: Path, tmp_path: Path) -> None:
    expected = built.run(str(tiny), "--tokens", "5,6,7", "--temp", "0", "--max-tokens", "8")
    mount = f"mount -t tmpfs -o size=1m none {shlex.quote(str(tmp_path))}"
    run = shlex.join([str(built.program), str(tiny), *expected.args[2:], "--cache", str(tmp_path)])
    command = ["unshare", "-rm", "sh", "-c", f"{mount} || exit 99; exec {run}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip(f"no small disk can be mounted: {done.stderr}")
    assert (done.returncode, done.stdout) == (0, expected.stdout)
    assert re.fullmatch(rf"note: weights are packed in memory: {tmp_path} has 2 MB free of .*\n", done.stderr)


@pytest.mark.skipif(sys.platform != "linux", reason="/sys is a folder of Linux")
def test_a_cache_folder_that_is_read_only(built: Runtime, tiny: Path) -> None:
    plain = built.run(str(tiny), "--tokens", "5,6,7", "--temp", "0", "--max-tokens", "8")
    done = built.run(*plain.args[1:], "--cache", "/sys/kernel")
    assert (done.returncode, done.stdout) == (0, plain.stdout)
    assert done.stderr == "note: weights are packed in memory: /sys/kernel cannot be written\n"


@in_child
def test_packed_weights_of_another_bundle(built: Runtime, tiny: Path, demo: Path, tmp_path: Path) -> None:
    library = Library(built.library)

    def said(bundle: Path) -> list[int]:
        model = library.open(bundle, context=CONTEXT, cache_folder=str(tmp_path).encode())
        tokens = model.session().generate([5, 6, 7], max_tokens=8).tokens
        model.close()
        return tokens

    expected = said(tiny)
    (mine,) = tmp_path.glob("*.packed")
    assert said(demo) != expected
    (other,) = set(tmp_path.glob("*.packed")) - {mine}
    shutil.copyfile(other, mine)
    shutil.copyfile(other.with_suffix(".size"), mine.with_suffix(".size"))
    assert said(tiny) == expected


@in_child
def test_an_empty_conversation(built: Runtime, tiny: Path) -> None:
    session = Library(built.library).open(tiny, context=CONTEXT).session()
    session.rewind(0)
    with refused("a conversation of 0 messages cannot go back to 2"):
        session.rewind(2)
    assert session.chat("", max_tokens=3).stats["prompt"] > 0


@in_child
def test_a_callback_that_ends_the_answer_at_once(built: Runtime, tiny: Path) -> None:
    session = Library(built.library).open(tiny, context=CONTEXT).session()

    def cancel(_: Said) -> bool:
        session.cancel()
        return False

    for watch in (cancel, lambda _: True):
        said = session.generate([5, 6, 7], watch=watch, max_tokens=50)
        assert (len(said.tokens), said.n_pieces, said.stats["finish"]) == (1, 1, CANCELED)
    assert session.n_messages == 0


@in_child
def test_a_long_message_is_cut_between_characters(built: Runtime) -> None:
    for n in range(4):
        with pytest.raises(Refused) as caught:  # decodes the cause
            Library(built.library).open(Path("x" * n + "é" * 400))
        assert len(caught.value.cause.encode()) >= 509


def test_a_clean_up_that_fails_hides_no_cause(library: ctypes.CDLL) -> None:
    message = ctypes.create_string_buffer(200)
    library.check_clean_up(message)
    assert message.value == b"the first cause"

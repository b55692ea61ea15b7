"""Files that a user names: whatever can be read is read, and nothing but a file is replaced."""

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeinfer.errors import UsageError
from edgeinfer.named_files import PATIENCE_S, check_output, read_text, write_text

needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
ZEROS, FULL, DISCARDED = Path("/dev/zero"), Path("/dev/full"), Path("/dev/null")


def read(path: Path, **options: Callable[[str], None]) -> str:
    return read_text(path, title="the list", most_bytes=1000, hint="a list is a file", **options)


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_file_is_read_in_the_codec_that_it_announces(tmp_path: Path, codec: str) -> None:
    (tmp_path / "list").write_bytes("é😀\r\n".encode(codec))
    assert read(tmp_path / "list") == "é😀\r\n"


@needs_pipes
def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=["a list"])
    writer.start()
    assert read(pipe) == "a list"
    writer.join()


@needs_pipes
def test_a_pipe_that_nobody_writes_is_mentioned_and_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    said: list[str] = []

    def write_when_mentioned(sentence: str) -> None:
        said.append(sentence)
        pipe.write_text("late")

    assert read(pipe, waiting=write_when_mentioned) == "late"
    assert said == [f"(waiting for the end of {pipe})"]


def test_a_quick_file_is_not_mentioned(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("a")
    said: list[str] = []
    read(tmp_path / "list", waiting=said.append)
    threading.Event().wait(PATIENCE_S * 1.2)
    assert said == []


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("none", "cannot read the list: No such file"),
        (".", "cannot read the list: Is a directory"),
        ("a/b", "cannot read the list: Not a directory"),
        ("x" * 300, "cannot read the list: File name too long"),
        ("a\0b", "cannot read the list: embedded null"),
        ("large", "the list is larger than 1000 bytes"),
        ("latin", "the list is not UTF-8: byte 0xe9 at offset 3"),
        ("loop", "cannot read the list: Too many levels"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "a").write_text("")
    (tmp_path / "large").write_bytes(b"x" * 1001)
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match=says) as refused:
        read(tmp_path / name)
    assert "\n" not in str(refused.value)


@pytest.mark.skipif(not ZEROS.exists(), reason="no /dev/zero here")
def test_a_device_without_an_end_is_too_large() -> None:
    with pytest.raises(UsageError, match="larger than 1000 bytes"):
        read(ZEROS)


def test_a_file_is_replaced_and_keeps_its_permissions(tmp_path: Path) -> None:
    file = tmp_path / "report.md"
    file.write_text("old")
    file.chmod(0o640)
    write_text(file, "new")
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("new", 0o640)
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]


def test_a_new_file_has_the_permissions_that_it_is_given(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "report.md", "new")
        write_text(tmp_path / "talk.json", "new", mode=0o600)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "report.md").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "talk.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_stays_a_link(tmp_path: Path, is_there: bool) -> None:
    target, link = tmp_path / "elsewhere" / "report.md", tmp_path / "report.md"
    target.parent.mkdir()
    if is_there:
        target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


@needs_pipes
def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_output(pipe)
    read_end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_text(pipe, "new")
    assert os.read(read_end, 100) == b"new"
    os.close(read_end)
    assert pipe.is_fifo()


@needs_pipes
def test_a_pipe_that_nothing_reads_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UsageError, match="nothing reads this pipe"):
        write_text(pipe, "new")


@pytest.mark.skipif(not FULL.exists(), reason="/dev/full is Linux's")
def test_devices_are_written_to_and_never_replaced() -> None:
    check_output(DISCARDED)
    write_text(DISCARDED, "new")
    with pytest.raises(UsageError, match="No space left on device"):
        write_text(FULL, "new")
    assert DISCARDED.is_char_device()
    assert FULL.is_char_device()


def test_the_file_that_stdout_writes_is_continued(tmp_path: Path) -> None:
    file = tmp_path / "answers"
    with file.open("w") as out:
        before = os.dup(1)
        os.dup2(out.fileno(), 1)
        try:
            os.write(1, b"an answer\n")
            write_text(file, "a report\n")
        finally:
            os.dup2(before, 1)
            os.close(before)
    assert file.read_text() == "an answer\na report\n"


@pytest.mark.parametrize(
    ("name", "says"),
    [("none/report.md", "is not a folder"), ("file/report.md", "is not a folder"), (".", "it is a folder")],
)
def test_a_place_that_cannot_be_written_is_known_before(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=says):
        check_output(tmp_path / name)
    with pytest.raises(UsageError, match="cannot write"):
        write_text(tmp_path / name, "new")


def test_a_place_that_can_be_written_is_accepted(tmp_path: Path) -> None:
    check_output(None)
    check_output(tmp_path / "report.md")

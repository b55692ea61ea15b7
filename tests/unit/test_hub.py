"""Pull, locate, list, remove and verify, against a local hub that fails on request."""

from __future__ import annotations

import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeinfer import hub
from edgeinfer.errors import ArtifactError, DownloadError, ModelNotFoundError, UsageError
from edgeinfer.hub import disk, transfer
from tests import gguf_bytes as g
from tests.hub_server import COMMIT, FakeRepo, Hub, sha256

MODEL = g.file()
FILE = "tiny-Q4_0.gguf"
REPOS = {
    "org/tiny-GGUF": FakeRepo(
        {
            FILE: MODEL,
            "tiny-Q8_0.gguf": MODEL + b"\0",
            "UD-tiny-Q8_0.gguf": MODEL,
            "mmproj-F16.gguf": b"not a language model",
            "tiny-F16-00001-of-00002.gguf": b"half",
            "README.md": b"# tiny",
            "bad-Q6_K.gguf": b"GGUF but no more",
            "model.bin": b"\x80\x04pickle",
            "../../escape-Q2_K.gguf": MODEL,
        }
    ),
    "org/mlx": FakeRepo(
        {
            "config.json": b'{"model_type": "llama"}',
            "model.safetensors": struct.pack("<Q", 2) + b"{}",
            "tokenizer.json": b"{}",
            "modeling.py": b"raise SystemExit",
            "pytorch_model.bin": b"\x80\x04.",
        }
    ),
    "org/gated": FakeRepo({FILE: MODEL}, gated=True),
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(transfer, "PAUSE_S", 0.001)
    with Hub(REPOS).running() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def files_left(where: Path) -> list[str]:
    return sorted(path.name for path in where.rglob("*") if path.is_file() and path.suffix != ".lock")


def test_pull_locate_list_verify_remove(server: Hub, tmp_path: Path) -> None:
    assert hub.locate("org/tiny-GGUF", FILE) is None
    seen: list[tuple[int, int]] = []
    path = hub.pull("org/tiny-GGUF", FILE, progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == MODEL
    assert path == tmp_path / "hf/hub/models--org--tiny-GGUF/snapshots" / COMMIT / FILE
    assert seen[-1] == (len(MODEL), len(MODEL))
    assert hub.locate("org/tiny-GGUF", FILE) == hub.locate("org/tiny-GGUF", FILE, COMMIT) == path
    (model,) = hub.installed()
    assert (model.repo, model.file, model.revision, model.n_bytes) == ("org/tiny-GGUF", FILE, COMMIT, len(MODEL))
    assert model.sha256 == hub.verify(path) == f"sha256:{sha256(MODEL)}"
    assert hub.remove("org/tiny-GGUF", FILE) == len(MODEL)
    assert hub.installed() == []
    assert not (tmp_path / "hf/hub/models--org--tiny-GGUF").exists()


def test_huggingface_hub_finds_what_we_pulled(server: Hub) -> None:
    from huggingface_hub import try_to_load_from_cache

    path = hub.pull("org/tiny-GGUF", FILE)
    assert try_to_load_from_cache("org/tiny-GGUF", FILE, cache_dir=hub.cache_dir()) == str(path)


def test_a_model_folder_comes_whole_and_without_code(server: Hub) -> None:
    assert hub.choose_file(hub.look_up("org/mlx")) is None
    folder = hub.pull("org/mlx")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert hub.locate("org/mlx") == folder
    (model,) = hub.installed()
    assert (model.repo, model.file, model.n_bytes) == ("org/mlx", "", 35)
    assert hub.remove("org/mlx") >= 35
    assert hub.locate("org/mlx") is None


def test_second_pull_fetches_nothing(server: Hub) -> None:
    hub.pull("org/tiny-GGUF", FILE)
    n_downloads, n_requests = len(server.downloads()), len(server.requests)
    hub.pull("org/tiny-GGUF", FILE)
    assert len(server.downloads()) == n_downloads == 1
    n_requests = len(server.requests)
    hub.pull("org/tiny-GGUF", FILE, COMMIT)
    assert len(server.requests) == n_requests, "a pinned file that is here needs no network"


def test_a_cut_connection_is_resumed(server: Hub) -> None:
    server.faults.cut_after = [3000, 2000]
    assert hub.pull("org/tiny-GGUF", FILE).read_bytes() == MODEL
    assert server.downloads() == ["", "bytes=3000-", "bytes=5000-"]


def test_a_pull_resumes_where_the_last_one_stopped(server: Hub) -> None:
    server.faults.cut_after = [3000, *[0] * transfer.ATTEMPTS]
    with pytest.raises(DownloadError, match=f"stopped at 3000 of {len(MODEL)} bytes") as caught:
        hub.pull("org/tiny-GGUF", FILE)
    assert "again" in caught.value.hint
    assert hub.locate("org/tiny-GGUF", FILE) is None
    assert hub.installed() == []
    del server.requests[:]
    assert hub.pull("org/tiny-GGUF", FILE).read_bytes() == MODEL
    assert server.downloads() == ["bytes=3000-"]


def test_a_download_starts_again_where_the_server_cannot_resume(server: Hub) -> None:
    server.faults.cut_after = [3000]
    server.faults.ignore_range = True
    assert hub.pull("org/tiny-GGUF", FILE).read_bytes() == MODEL


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"wrong_bytes": True}, "has the digest"),
        ({"extra_bytes": 7}, f"longer than the {len(MODEL)} bytes"),
        ({"missing_bytes": 7}, f"stopped at {len(MODEL) - 7} of {len(MODEL)} bytes"),
        ({"etag": "../../../../etc/passwd"}, "the hub gives the digest '../../../../etc/passwd'"),
        ({"etag": "0" * 64}, "offered as sha256:000"),
    ],
)
def test_a_wrong_file_is_removed(server: Hub, tmp_path: Path, fault: dict[str, object], message: str) -> None:
    for name, value in fault.items():
        setattr(server.faults, name, value)
    with pytest.raises((ArtifactError, DownloadError), match=message.replace(".", r"\.")):
        hub.pull("org/tiny-GGUF", FILE)
    assert hub.installed() == []
    kept = [name for name in files_left(tmp_path) if name not in ("CACHEDIR.TAG", ".gitignore")]
    assert kept == []


def test_a_gguf_that_is_none_is_removed(server: Hub) -> None:
    with pytest.raises(ArtifactError, match="bad-Q6_K"):
        hub.pull("org/tiny-GGUF", "bad-Q6_K.gguf")
    assert hub.installed() == []


def test_an_expected_digest_is_checked_before_the_download(server: Hub) -> None:
    with pytest.raises(ArtifactError, match="was expected"):
        hub.pull("org/tiny-GGUF", FILE, sha256="sha256:" + "1" * 64)
    with pytest.raises(ArtifactError, match="not a digest"):
        hub.pull("org/tiny-GGUF", FILE, sha256="../../x")
    assert server.downloads() == []


@pytest.mark.parametrize(
    ("repo", "file", "revision", "message", "hint"),
    [
        ("org/none", FILE, "", "no repository org/none", "spelling"),
        ("org/tiny-GGUF", "tiny-Q4_O.gguf", "", "has no file tiny-Q4_O.gguf", "did you mean tiny-Q4_0.gguf"),
        ("org/tiny-GGUF", FILE, "v9", "has no revision v9", "/commits"),
    ],
)
def test_a_model_that_the_hub_lacks_is_refused_with_a_hint(
    server: Hub, repo: str, file: str, revision: str, message: str, hint: str
) -> None:
    with pytest.raises(ModelNotFoundError, match=message) as caught:
        hub.pull(repo, file, revision)
    assert hint in caught.value.hint


@pytest.mark.parametrize("token", ["", "bad"])
def test_the_error_for_a_gated_model_says_how_to_get_access(
    server: Hub, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(DownloadError, match=f"org/gated is gated .HTTP {403 if token else 401}.") as caught:
        hub.pull("org/gated", FILE)
    assert f"accept its license at {server.url}/org/gated" in caught.value.hint
    assert "HF_TOKEN" in caught.value.hint
    monkeypatch.setenv("HF_TOKEN", "good")
    assert hub.pull("org/gated", FILE).read_bytes() == MODEL


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_error_of_the_server_names_its_status(server: Hub, status: int) -> None:
    server.faults.status = status
    with pytest.raises(DownloadError, match=f"HTTP {status}"):
        hub.look_up("org/tiny-GGUF")


def test_a_server_that_does_not_answer_is_named(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(DownloadError, match=r"http://127\.0\.0\.1:1 does not answer"):
        hub.pull("org/tiny-GGUF", FILE)


def test_offline_the_cache_is_read_and_nothing_is_fetched(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hub.pull("org/tiny-GGUF", FILE)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub.locate("org/tiny-GGUF", FILE) == path
    n_requests = len(server.requests)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE is set"):
        hub.pull("org/tiny-GGUF", "tiny-Q8_0.gguf")
    assert len(server.requests) == n_requests


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_keeps_no_part_file(server: Hub) -> None:
    part = hub.cache_dir() / "models--org--tiny-GGUF/blobs" / f"{sha256(MODEL)}.edgeinfer.incomplete"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    with pytest.raises(DownloadError, match="the disk is full") as caught:
        hub.pull("org/tiny-GGUF", FILE)
    assert "HF_HOME" in caught.value.hint
    assert not part.is_symlink()


def test_too_little_disk_space_is_reported_before_the_download(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "SPARE_BYTES", 1 << 60)
    with pytest.raises(DownloadError, match="MB free"):
        hub.pull("org/tiny-GGUF", FILE)
    assert server.downloads() == []


def test_a_cache_that_cannot_be_written_is_refused_before_a_request(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "taken" / "hub"))
    with pytest.raises(DownloadError, match="the cache cannot be written") as caught:
        hub.pull("org/tiny-GGUF", FILE)
    assert "HF_HOME" in caught.value.hint


def test_an_unreadable_token_is_an_error(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub reads `HF_HOME/token` before it asks anything."""
    from huggingface_hub import constants

    (tmp_path / "taken").write_text("a file, not a folder")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "taken" / "token"))
    with pytest.raises(DownloadError, match="cannot be read: Not a directory") as caught:
        hub.pull("org/tiny-GGUF", FILE)
    assert "HF_HOME" in caught.value.hint


def test_two_pulls_at_once_fetch_once(server: Hub) -> None:
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(hub.pull("org/tiny-GGUF", FILE))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(paths) == 4
    assert len(set(paths)) == 1
    assert paths[0].read_bytes() == MODEL
    assert len(server.downloads()) == 1


def test_verify_finds_one_flipped_byte(server: Hub) -> None:
    path = hub.pull("org/tiny-GGUF", FILE)
    blob = path.resolve()
    blob.chmod(0o644)
    blob.write_bytes(MODEL[:-1] + b"\x01")
    with pytest.raises(ArtifactError, match="was expected"):
        hub.verify(path)


def test_a_remote_header_is_read_in_one_piece(server: Hub) -> None:
    server.repos["org/tiny-GGUF"].files["big-F16.gguf"] = MODEL + b"\0" * (2 << 20)
    try:
        header = hub.remote_header("org/tiny-GGUF", "big-F16.gguf")
    finally:
        del server.repos["org/tiny-GGUF"].files["big-F16.gguf"]
    assert header.metadata["general.name"] == "tiny"
    assert server.downloads() == [f"bytes=0-{(256 << 10) - 1}"]


def test_a_file_is_chosen_by_its_tier(server: Hub) -> None:
    repo = hub.look_up("org/tiny-GGUF")
    assert (repo.revision, repo.license, repo.gated) == (COMMIT, "apache-2.0", False)
    names = [file.file for file in repo.files]
    assert "model.bin" not in names, "pickles are not offered"
    assert not any("escape" in name for name in names), "a name that leads out of the folder is not offered"
    assert {tier: file.file for tier, file in hub.tiers(repo).items()} == {
        "Q4_0": FILE,
        "Q6_K": "bad-Q6_K.gguf",
        "Q8_0": "tiny-Q8_0.gguf",
    }
    default, named = hub.choose_file(repo), hub.choose_file(repo, "q8_0")
    assert default and default.file == FILE
    assert named and named.file == "tiny-Q8_0.gguf"
    with pytest.raises(ModelNotFoundError, match="no tier Q4_K_M") as caught:
        hub.choose_file(repo, "Q4_K_M")
    assert "Q4_0" in caught.value.hint
    with pytest.raises(ArtifactError, match="only in parts"):
        hub.choose_file(repo, "F16")


@pytest.mark.parametrize("name", ["../x.gguf", "/etc/passwd", "a/../../x", "a\\b", "nul.gguf", "x/./y", "", "a\0b"])
def test_names_that_lead_out_of_the_folder_are_refused(server: Hub, name: str) -> None:
    if name:
        for call in (hub.locate, hub.pull, hub.remove, hub.remote_header):
            with pytest.raises((ArtifactError, ModelNotFoundError)):
                call("org/tiny-GGUF", name)
    for repo in ("../..", "a/..", "..--x/y", "org/a/b", "/etc", "org\\x/y"):
        with pytest.raises(UsageError):
            hub.locate(repo, FILE)
    assert server.downloads() == []


def test_environment_variables_are_honored_in_a_fresh_process(server: Hub, tmp_path: Path) -> None:
    script = f"from edgeinfer import hub; print(hub.pull('org/tiny-GGUF', {FILE!r}))"
    ran = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert Path(ran.stdout.strip()).is_relative_to(tmp_path / "hf" / "hub")

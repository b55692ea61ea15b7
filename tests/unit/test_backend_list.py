"""A backend added to the list appears everywhere, and no other module names a backend."""

import json
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

import edgeinfer
from edgeinfer import backends
from edgeinfer.cli.main import main, parser_of
from edgeinfer.hub import cache
from edgeinfer.plan import Request
from tests.conformance.backends import available
from tests.tiny_gguf import Tiny, write_tiny
from tests.toy_backend import BACKEND
from tests.toy_backend.facts import FACTS as TOY

PACKAGE = Path(backends.__file__).parents[1]


@pytest.fixture(autouse=True)
def with_toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "FACTS", (*backends.FACTS, TOY))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny.gguf", Tiny(tier="Q8_0"))


def test_no_two_backends_have_one_name() -> None:
    names = [facts.name for facts in backends.FACTS]
    assert len(set(names)) == len(names)


def test_a_toy_backend_is_a_choice_of_the_backend_flag() -> None:
    assert parser_of("plan").parse_args(["--backend", "toy"]).backend == "toy"
    assert "reference, toy" in parser_of("plan").format_help()


def test_plan_names_the_toy_backend(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(path), "--backend", "toy", "--context", "512", "--force"]) == 0
    assert ", with toy on " in capsys.readouterr().out


def test_the_plan_compares_the_toy_backend_with_the_others(path: Path) -> None:
    plan = edgeinfer.choose(Request(model=str(path), context=512, force=True))
    assert "toy" in {plan.backend, *(one.backend for one in plan.rejected)}
    assert "reference" not in {plan.backend, *(one.backend for one in plan.rejected)}  # on request only


def test_doctor_reports_the_toy_backend(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    text = capsys.readouterr().out
    assert re.search(r"toy +ready \(toy-engine 1\.2\)\n +toys: all in the box\n", text)
    main(["doctor", "--json"])
    (found,) = [one for one in json.loads(capsys.readouterr().out)["backends"] if one["name"] == "toy"]
    assert found["available"] and found["kv_types"][0] == "f32"


def test_a_model_on_the_toy_backend_answers(path: Path) -> None:
    with edgeinfer.load(Request(model=str(path), backend="toy", context=512, force=True)) as model:
        assert model.plan.backend == "toy"
        assert model.chat().ask("one", max_tokens=4).tokens


def test_the_conformance_suite_takes_it() -> None:
    assert "toy-llama" in {subject.name for subject in available()}


def test_bench_speed_measures_it(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--runs", "1", "--prompt-tokens", "8", "--tokens", "4", "--context", "512"]
    assert main(["bench", "speed", "--model", str(path), "--backend", "toy", *few, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["backend"] == "toy" and report["bare_decode"] is None


def test_rm_tells_the_toy_backend_which_file_went(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = SimpleNamespace(repo="org/repo", file="m-Q8_0.gguf", path=path)
    monkeypatch.setattr(cache, "installed", lambda: [here])
    monkeypatch.setattr(cache, "remove", lambda repo, file: 0)
    monkeypatch.setattr(BACKEND, "forgotten", [])
    assert main(["rm", "org/repo"]) == 0
    assert BACKEND.forgotten == [path]


PACKAGES = {"cli/doctor_command.py": 1, "bench/kernels.py": 1, "bench/speculation/text.py": 1}
"""Files that name a Python package which is called like a backend, and how often."""


def test_only_the_backends_know_their_names() -> None:
    quoted = re.compile("[\"'](" + "|".join(facts.name for facts in backends.FACTS) + ")[\"']")
    found = Counter(
        {
            str(file.relative_to(PACKAGE)): len(quoted.findall(file.read_text(encoding="utf-8")))
            for file in PACKAGE.rglob("*.py")
            if "backends" not in file.relative_to(PACKAGE).parts
        }
    )
    assert {file: n for file, n in found.items() if n} == PACKAGES

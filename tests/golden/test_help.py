"""Complete help pages and error texts."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeinfer.cli.bench_command import MEASURES
from edgeinfer.cli.main import COMMANDS, load, main, parser_of, top_help

Golden = Callable[[Path, str], None]
HELP = Path(__file__).parent / "help"
ERRORS = Path(__file__).parent / "errors.txt"
MISTAKES = (
    ["caht"],
    ["--versoin"],
    ["chat", "--contxt", "8192"],
    ["chat", "--context", "0"],
    ["chat", "--top-p", "1.5"],
    ["chat", "demo", "qwen3-4b"],
    ["chat", "demo", "--model", "qwen3-4b"],
    ["run", "--model", "demo", ""],
    ["run", "demo", "Hi", "there"],
    ["run", "--model", "llama-3.2-8b", "Hi"],
    ["run", "--model", "gemma-4-27b", "Hi"],
    ["run", "--model", "no-such-model-at-all", "Hi"],
    ["run", "--model", "../../etc/passwd", "Hi"],
    ["run", "--model", "./no-such.gguf", "Hi"],
    ["run", "--model", "weights.bin", "Hi"],
    ["plan", "--device", "iphone-15-por"],
    ["plan", "--device", "iphone-15", "--model", "llama-3.3-70b"],
    ["plan", "--model", "demo", "--tier", "Q4"],
    ["plan", "--model", "demo", "--context", "100"],
    ["plan", "--model", "demo", "--context", "100000"],
    ["plan", "--device", "raspberry-pi-5-8gb", "--speculation", "draft"],
    ["plan", "demo", "--speculation", "off", "--draft-model", "demo"],
    ["rm", "demo"],
    ["models", "add", "demo"],
    ["bench", "speed-of-light"],
)


def test_the_page_of_edgeinfer(check_golden: Golden) -> None:
    check_golden(HELP / "edgeinfer.txt", top_help() + "\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_of_each_command(name: str, check_golden: Golden) -> None:
    check_golden(HELP / f"{name}.txt", parser_of(name).format_help())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_page_has_examples_that_begin_with_edgeinfer(name: str) -> None:
    assert f"edgeinfer {name}" in load(name).EXAMPLES
    assert not load(name).HELP.endswith(".")


@pytest.mark.parametrize("measure", MEASURES)
def test_every_measurement_has_a_page(measure: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", measure, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: edgeinfer bench {measure} [...]\n\n{MEASURES[measure]}")


def test_the_text_of_each_error(check_golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output for each mistake, with the exit code."""
    monkeypatch.chdir(tmp_path)
    for variable in ("XDG_CONFIG_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path))
    seen = []
    for mistake in MISTAKES:
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            code = main(mistake)
        words = " ".join(word if word and " " not in word else f'"{word}"' for word in mistake)
        seen.append(f"$ edgeinfer {words}\n{said.getvalue()}exit {code}\n")
    check_golden(ERRORS, "\n".join(seen))

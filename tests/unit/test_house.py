"""House rules that no linter checks: short files, short functions, no dangerous calls."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for folder in ("edgeinfer", "benchmarks", "tools") for path in (ROOT / folder).rglob("*.py"))
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def long_functions(source: str) -> list[str]:
    return [
        f"{node.name}: {length} lines"
        for node in functions(ast.parse(source))
        if (length := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]


def test_the_sources_are_found() -> None:
    assert len(SOURCES) > 20


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_and_functions_are_short(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MAX_FILE_LINES
    assert long_functions(source) == []


def test_the_check_sees_a_long_function() -> None:
    assert long_functions("def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES) == ["f: 61 lines"]


@pytest.mark.parametrize(
    "pattern",
    [r"trust_remote_code\s*=\s*True", r"\bpickle\.load", r"(?<![.\w])eval\(", r"(?<![.\w])exec\(", r"shell\s*=\s*True"],
)
def test_no_source_makes_a_dangerous_call(pattern: str) -> None:
    found = [str(path.relative_to(ROOT)) for path in SOURCES if re.search(pattern, path.read_text(encoding="utf-8"))]
    assert found == []


def named_targets(text: str) -> set[str]:
    return set(re.findall(r"(?:`|^|run: )make ([a-z][a-z-]*)", text, re.MULTILINE))


def test_every_make_target_that_is_named_exists() -> None:
    rules = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "tests").rglob("*.md")]
    documents += [ROOT / ".ci/run", *(ROOT / ".github/workflows").glob("*.yml")]
    texts = [path.read_text(encoding="utf-8") for path in [*documents, *SOURCES, *(ROOT / "tests").rglob("*.py")]]
    assert set().union(*map(named_targets, texts)) - {"test-none"} <= rules
    text = "run `make test-none`\nmake check  # all\n  - run: make lint"
    assert named_targets(text) == {"test-none", "check", "lint"}

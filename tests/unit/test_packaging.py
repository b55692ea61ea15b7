"""The metadata of the package and its dependencies."""

import ast
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULES = {"llama_cpp_python": "llama_cpp"}  # a package whose module has another name
FOLDERS = ("docs", "edgeinfer", "benchmarks", "metal_kernels", "mobile", "tests")
PAGES = sorted(
    page
    for page in [*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))]
    if "node_modules" not in page.parts
)
OVERCLAIMS = re.compile(r"\b(cannot hurt|nowhere|never slower|always faster|best|fastest)\b", re.IGNORECASE)


def imported(sources: Iterable[str]) -> set[str]:
    found = set()
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found


def unused(dependencies: Iterable[str], modules: set[str]) -> list[str]:
    names = [re.split(r"[^\w-]", dependency)[0].replace("-", "_") for dependency in dependencies]
    return [name for name in names if MODULES.get(name, name) not in modules]


def test_every_dependency_is_imported() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "edgeinfer").rglob("*.py")]
    assert unused(PROJECT["dependencies"], imported(sources)) == []


def test_the_check_sees_an_unused_dependency() -> None:
    assert unused(["rich>=14,<16", "llama-cpp-python==0.3.36; x"], imported(["import llama_cpp.llama"])) == ["rich"]


def test_the_index_page_has_links_classifiers_and_authors() -> None:
    assert {"Homepage", "Issues", "Changelog"} <= set(PROJECT["urls"])
    assert all(url.startswith("https://github.com/edgeinfer/edgeinfer") for url in PROJECT["urls"].values())
    assert "Typing :: Typed" in PROJECT["classifiers"]
    assert PROJECT["authors"]


def test_the_headlines_claim_no_more_than_the_reports_show() -> None:
    first_screen = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## ")[0]
    for text in (PROJECT["description"], first_screen):
        assert not OVERCLAIMS.search(text), OVERCLAIMS.search(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_existing_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []

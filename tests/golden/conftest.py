"""Golden texts. `make golden` rewrites them, so that a reviewer can read the diff."""

from collections.abc import Callable
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite-golden", action="store_true", help="write what the program says now as the golden texts"
    )


@pytest.fixture
def check_golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """`check_golden(path, text)` compares `text` with the golden file at `path`, or rewrites the file."""
    rewrite = request.config.getoption("--rewrite-golden", default=False)

    def check(path: Path, text: str) -> None:
        if rewrite:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path.name} is missing: run `make golden`"
        assert text == path.read_text(encoding="utf-8")

    return check

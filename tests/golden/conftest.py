"""Golden texts: `make golden` rewrites them; the diff is for reading."""

from collections.abc import Callable
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite-golden", action="store_true", help="write what the program says now as the golden texts"
    )


@pytest.fixture
def check_golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """`check_golden(path, text)`: `text` is what the golden file at `path` holds, or becomes it."""
    rewrite = request.config.getoption("--rewrite-golden", default=False)

    def check(path: Path, text: str) -> None:
        if rewrite:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path.name} is missing: run `make golden`"
        assert text == path.read_text(encoding="utf-8")

    return check

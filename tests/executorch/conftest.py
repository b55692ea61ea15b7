"""A separate cache folder that holds the compiled engine of earlier runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.executorch.exported import keep_compiled_engine


@pytest.fixture(autouse=True, scope="session")
def own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        keep_compiled_engine()
        yield

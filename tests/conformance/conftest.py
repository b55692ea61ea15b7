"""Adds the toy backend to the list, and gives backends a cache folder of the tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgeinfer import backends
from tests.toy_backend.facts import FACTS as TOY


@pytest.fixture(autouse=True, scope="session")
def own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="module")  # removed again: other folders test the real list
def with_toy_backend() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "FACTS", (*backends.FACTS, TOY))
        yield

"""What a request leaves in memory after its end."""

from __future__ import annotations

import gc
import time

import pytest

from edgeinfer.serve.engine.job import Job
from tests.serve.conftest import Server

HOW: dict[str, dict[str, object]] = {
    "whole": {},
    "streamed": {"stream": True},
    "json": {"response_format": {"type": "json_object"}},
    "several": {"n": 3},
}


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_an_answer_is_freed_at_its_end_without_the_collector(server: Server, how: dict[str, object]) -> None:
    """The collector runs rarely in a large process. What only it can free adds up meanwhile."""
    gc.collect()
    before = jobs()  # of other tests
    gc.disable()
    try:
        assert server.chat("Hi", **how).status == 200
        for _ in range(200):
            if len(jobs()) == len(before):
                break
            time.sleep(0.01)
        assert len(jobs()) == len(before)
    finally:
        gc.enable()


def jobs() -> list[Job]:
    return [one for one in gc.get_objects() if type(one) is Job]  # isinstance would ask objects for their class

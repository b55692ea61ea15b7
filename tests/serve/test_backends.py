"""What a server does with a backend other than llama.cpp: conversations at once, each with its own answer."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

pytest.importorskip("mlx.core", reason="MLX is not installed")
pytest.importorskip("mlx_lm", reason="mlx-lm is not installed")

import edgeinfer
from edgeinfer.backends.mlx.facts import MlxFacts
from edgeinfer.backends.mlx.model import MlxModel
from edgeinfer.plan import Request
from edgeinfer.plan.facts import Capabilities
from edgeinfer.serve.http.safety import Access
from tests.serve.conftest import Server, running

TEXTS = ["Tell me a story about a lighthouse.", "Who are you?", "List three colors."]


@pytest.fixture(scope="module")
def mlx_server() -> Iterator[Server]:
    """MLX on a processor, as if it had a Metal GPU; in float32, so that near ties are rare."""
    capable = Capabilities(frozenset({"Q4_0"}), ("f32",), early_exit=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlxFacts, "capabilities", lambda self, device: capable)
        request = Request(model="demo", backend="mlx", kv_type="f32", conversations=len(TEXTS), context=512, sink=256)
        plan = edgeinfer.choose(request)
    assert plan.backend == "mlx"
    yield from running(Access("127.0.0.1"), plan=replace(plan, budget_bytes=max(plan.budget_bytes, 4 << 30)))


def answer(server: Server, text: str) -> str:
    reply = server.chat(text, temperature=0, max_tokens=12)
    assert reply.status == 200, reply.body
    said: str = reply.json["choices"][0]["message"]["content"]
    return said


def test_answers_of_conversations_in_one_forward_are_those_of_each_alone(
    mlx_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [answer(mlx_server, text) for text in TEXTS]
    sizes: list[int] = []
    true = MlxModel.run_together
    monkeypatch.setattr(MlxModel, "run_together", lambda self, asks: sizes.append(len(asks)) or true(self, asks))
    with ThreadPoolExecutor(len(TEXTS)) as pool:
        together = list(pool.map(lambda text: answer(mlx_server, text), TEXTS))
    assert together == alone and all(alone) and len(set(alone)) == len(TEXTS)
    assert max(sizes) > 1

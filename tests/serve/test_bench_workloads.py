"""The clients of `bench serve` on the real server."""

from __future__ import annotations

from dataclasses import replace

import edgeinfer
from edgeinfer.bench.serve import servers, workloads
from edgeinfer.plan import Request
from edgeinfer.types import GREEDY
from tests.serve.conftest import Server


def test_every_workload_measures_something(server: Server) -> None:
    subject = servers.Server("edgeinfer", server.port, "demo", tuple(server.served.tokenizer.stop_tokens))
    loaded = workloads.load(subject, 3, 12, seed=1)
    assert loaded.n_tokens == 36 and len(loaded.first_s) == 3 and loaded.tokens_per_s > 0
    assert workloads.longest_gap(subject, 150, seed=2) > 0
    assert workloads.second_turn(subject, 60, seed=3) > 0
    assert workloads.repeated_system(subject, 40, 2, seed=4) > 0


def test_the_server_and_chat_do_the_same_work(server: Server) -> None:
    """The client names every setting that another default would change, above all a penalty for repetition."""
    subject = servers.Server("edgeinfer", server.port, "demo", tuple(server.served.tokenizer.stop_tokens))
    endless = replace(GREEDY, logit_bias=tuple((token, -100.0) for token in subject.stops))
    with edgeinfer.load(edgeinfer.choose(Request(model="demo"), offline=True)) as chat:
        question = f"{workloads.text_of(40, 5000)}. {workloads.QUESTION}"
        answer = chat.stream(question, max_tokens=40, sampling=endless).finish()
    assert workloads.load(subject, 1, 40, seed=5).texts == (answer.text,)

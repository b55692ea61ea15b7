"""The clients of `bench serve` on the real server."""

from __future__ import annotations

from edgeinfer.bench.serve import servers, workloads
from tests.serve.conftest import Server


def test_every_workload_measures_something(server: Server) -> None:
    subject = servers.Server("edgeinfer", server.port, "demo", tuple(server.served.tokenizer.stop_tokens))
    loaded = workloads.load(subject, 3, 12, seed=1)
    assert loaded.n_tokens == 36 and len(loaded.first_s) == 3 and loaded.tokens_per_s > 0
    assert workloads.longest_gap(subject, 150, seed=2) > 0
    assert workloads.second_turn(subject, 60, seed=3) > 0
    assert workloads.repeated_system(subject, 40, 2, seed=4) > 0

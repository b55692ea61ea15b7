"""`bench serve` without a server: what it reads, counts and concludes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edgeinfer.bench.serve import measure, workloads
from edgeinfer.bench.serve.client import Streamed, stream, together
from edgeinfer.bench.serve.measure import Measured, Pairs, Sizes, Subjects, percentile
from edgeinfer.bench.serve.report import text_of_report, verdicts
from edgeinfer.bench.serve.servers import Server, get, is_healthy
from edgeinfer.bench.serve.workloads import Load, gaps_within, text_of
from edgeinfer.errors import EngineError
from tests.serve.stub_server import Script, chunk, said, stub_server

SIZES = Sizes(n_tokens=8, arriving_words=9, chat_words=10, system_words=11, n_slots=2)


def port_of(address: str) -> int:
    return int(address.rstrip("/").rpartition(":")[2])


def test_the_times_of_a_streamed_answer() -> None:
    script = Script(said("one", " two", " three"), pause_s=0.05)
    with stub_server(script) as address:
        answer = stream(port_of(address), "demo", [("system", "Be brief"), ("user", "Hi")], 7, never=(2, 5))
        assert get(port_of(address), "/v1/models")["data"][0]["id"] == "demo"
        assert not is_healthy(port_of(address) + 1)
    assert answer.text == "one two three" and (answer.n_prompt, answer.n_tokens) == (12, 3)
    assert len(answer.pieces) == 3 and answer.asked_s < answer.pieces[0] < answer.pieces[1] < answer.ended_s
    assert answer.pieces[1] - answer.pieces[0] > 0.04
    asked = script.asked[0]
    assert asked["messages"][0] == {"role": "system", "content": "Be brief"}
    assert asked["logit_bias"] == {"2": -100, "5": -100}
    assert (asked["max_tokens"], asked["temperature"], asked["repeat_penalty"], asked["stream"]) == (7, 0, 1, True)


@pytest.mark.parametrize("script", [Script(status=429), Script([chunk({"content": "cut"})]), Script(said())])
def test_an_incomplete_answer_is_not_counted(script: Script) -> None:
    with stub_server(script) as address, pytest.raises(EngineError):
        stream(port_of(address), "demo", [("user", "Hi")], 7)


def test_gaps_count_when_they_overlap_the_wait() -> None:
    pieces = [0.0, 1.0, 1.5, 4.0, 4.25]
    assert gaps_within(pieces, 1.6, 3.0) == [2.5]
    assert gaps_within(pieces, 0.5, 1.25) == [1.0, 0.5]
    assert gaps_within(pieces, 9.0, 10.0) == [0.0]


def test_prompts_differ_and_repeat_by_their_seed() -> None:
    assert text_of(30, 1) == text_of(30, 1) != text_of(30, 2)
    assert len(text_of(30, 1).split()) == 30


def test_clients_ask_at_the_same_time_and_a_load_ends_with_its_last_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(port: int, model: str, messages: Any, max_tokens: int, on_piece: Any, never: Any) -> Streamed:
        late = float(len(prompts))
        prompts.append(messages[0][1])
        assert never == (7,)
        return Streamed(late, (late + 1, late + 3), late + 9, 5, max_tokens, "x")

    prompts: list[str] = []
    monkeypatch.setattr(workloads, "stream", answers)
    found = workloads.load(Server("a", 1, "demo", (7,)), 3, 10, seed=4)
    assert (found.n_tokens, found.seconds, found.tokens_per_s) == (30, 5.0, 6.0)
    assert found.first_s == (1.0, 1.0, 1.0) and found.between_s == found.writing_s == (2.0, 2.0, 2.0)
    assert found.tokens_per_s_after_first == 27 / 6
    assert len(set(prompts)) == 3


def test_sides_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    seeds: dict[int, list[str]] = {}

    def workload(value: object) -> Callable[..., Any]:
        def run(server: Server, seed: int, **sizes: object) -> object:
            asked.append(server.name)
            seeds.setdefault(seed, []).append(server.name)
            return value

        return run

    loaded = Load(10, 1.0, (0.1,), (0.1, 0.1), (0.9,), ("a",))
    monkeypatch.setattr(measure, "load", workload(loaded))
    for name in ("longest_gap", "second_turn", "repeated_system"):
        monkeypatch.setattr(measure, name, workload(0.5))
    monkeypatch.setattr(measure, "chat_speed", lambda chat, n_tokens, seed: 10.0)
    sides = [Server("ours", 1, "demo"), Server("theirs", 2, "demo")]
    not_used: Any = None
    subjects = Subjects(sides, Server("single", 3, "demo"), not_used)
    found = measure.measure(subjects, (1, 4), SIZES, 2, lambda text: None)
    in_turn = [["ours", "theirs"], ["theirs", "ours"]]
    assert asked[3:] == [name for both in in_turn for name in (*both, *both, "single", *both, *both, *both)]
    assert all(len(set(names)) == len(names) for names in seeds.values()), "a server got a prompt twice"
    assert found.alone == Pairs([10.0, 10.0], [10.0, 10.0])
    assert len(found.loads[4].ours) == len(found.loads[4].theirs) == len(found.gaps.ours) == 2


def test_the_report_states_its_claims() -> None:
    slow = Load(10, 2.0, (0.2,), (0.1, 0.1), (0.9,), ("one",))
    fast = Load(10, 1.0, (0.1,), (0.05, 0.05), (0.9,), ("another",))
    found = Measured(
        {1: Pairs([slow], [fast]), 2: Pairs([fast, slow], [slow, slow])},
        Pairs([0.1], [0.4]),
        Pairs(),
        Pairs(),
        Pairs([9.8], [10.0]),
    )
    text = text_of_report(found, {1: 10.0, 2: 20.0})
    assert "| 1 | 5.0 | 10.0 | 0.50 [0.50, 0.50] | 50% |" in text
    assert "1 of 3 answers have the same text on both servers." in text
    assert "| longest gap of two running chats while a long prompt arrives | 0.100 | 0.400 | 0.25" in text
    assert list(verdicts(found).values()) == [False, True, True, True]
    assert "gives 9.8 tokens/s and `chat` 10.0: 0.98" in text
    alone = Measured({2: Pairs([fast], [])}, Pairs([0.1], []), Pairs(), Pairs(), Pairs([9.6], [10.0]))
    assert "| 2 | 10.0 | - | - | 50% |" in text_of_report(alone, {2: 20.0})
    assert "both servers." not in text_of_report(alone, {2: 20.0})
    assert verdicts(alone) == {"one conversation: at least 0.97 of `edgeinfer chat`": False}


def test_percentiles_by_hand() -> None:
    assert [percentile([3.0, 1.0, 2.0, 4.0], share) for share in (0.0, 0.5, 0.95)] == [1.0, 3.0, 4.0]


def test_an_error_of_one_client_is_raised() -> None:
    def fails() -> int:
        raise EngineError("no")

    with pytest.raises(EngineError, match="no"):
        together([lambda: 1, fails])

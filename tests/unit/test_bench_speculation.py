"""The speculation bench: its arithmetic by hand, its log, and one small run of it."""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import replace
from math import exp, log
from pathlib import Path

import pytest

from edgeinfer.bench.speculation import measure as speculation
from edgeinfer.bench.speculation.measure import Task, command_of, first_of_each, how_much, read_prompts
from edgeinfer.bench.speculation.records import CONTROL, PLAIN, LogFile, Measured, Record, Run, Subject
from edgeinfer.bench.speculation.report import ALL, as_json, rows_by_prompt, rows_of
from edgeinfer.bench.speculation.sides import Sides, turned
from edgeinfer.bench.statistics import Pair, speedup, spread
from edgeinfer.decode.policy.costs import RowCosts
from edgeinfer.errors import UsageError
from tests.tiny_gguf import Tiny, write_tiny

TINY = Subject("tiny", "F32", 1000)
COSTS = RowCosts({1: 1.0, 2: 1.2, 4: 1.6, 16: 4.0}, {1: 0.7, 2: 0.9}, {1: 1.0, 2: 1.1, 4: 1.5}, 0.3)


def record(prompt: int, arm: str, seconds: float, **changes: object) -> Record:
    made = Record(
        TINY, 0.0, 0, prompt, "chat", arm, 0, tokens=10, seconds=seconds, first_token_s=0.5,
        drafted=0 if arm == PLAIN else 8, accepted=0 if arm == PLAIN else 6, digest="same", load=1.0,
        arms={"none": (10, 10, seconds)},
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def test_speedup_is_the_ratio_of_sums_and_its_interval_by_hand() -> None:
    pairs = [Pair(10, 2.0, 10, 1.0), Pair(10, 4.0, 10, 3.0)]
    result = speedup(pairs)
    assert result.ratio == pytest.approx(6.0 / 4.0)
    # leaving out one prompt gives 4/3, leaving out the other gives 2: the error is half of log(1.5)
    assert result.high / result.ratio == pytest.approx(exp(12.706 * log(1.5) / 2))
    assert result.ratio / result.low == pytest.approx(exp(12.706 * log(1.5) / 2))
    with pytest.raises(ValueError, match="no measurement"):
        speedup([])


@pytest.mark.parametrize("n", [2, 3, 6, 15])
def test_an_interval_holds_the_truth_in_95_runs_of_100(n: int) -> None:
    chance = random.Random(n)
    held = 0
    for _ in range(2000):
        pairs = []
        for _ in range(n):
            tokens = chance.randint(15, 60)
            plain_s, seconds = (tokens * chance.gauss(1.0, 0.05) for _ in range(2))
            pairs.append(Pair(tokens, plain_s, tokens, seconds / 1.3))
        result = speedup(pairs)
        held += result.low <= 1.3 <= result.high
    assert 0.925 < held / 2000 < 0.98


def test_where_answers_differ_tokens_per_second_are_compared_instead_of_times() -> None:
    assert speedup([Pair(10, 2.0, 20, 2.0)]).ratio == pytest.approx(2.0)


def test_spread_by_hand() -> None:
    assert spread([1.0, 1.0, 1.1, 0.9, 1.0]) == 0.0
    assert spread([0.8, 1.0, 1.2]) == pytest.approx(0.2)


def test_rows_pool_runs_of_a_prompt_and_leave_out_answers_of_one_token() -> None:
    log = LogFile(None)
    for run, seconds in enumerate((2.0, 4.0)):
        log.add(record(0, PLAIN, seconds, run=run))
        log.add(record(0, "auto", 2.0, run=run))
    log.add(record(1, PLAIN, 0.0, tokens=0, kind="story"))
    log.add(record(1, "auto", 0.0, tokens=0, kind="story", digest="other"))
    rows = {(row.kind, row.arm): row for row in rows_of(log.log)}
    assert set(rows) == {("chat", "auto"), (ALL, "auto")}
    row = rows["chat", "auto"]
    assert row.speedup == row.speedup_low == row.speedup_high == pytest.approx(1.5)
    assert (row.plain_tokens_per_s, row.tokens_per_s) == pytest.approx((20 / 6, 5.0))
    assert row.acceptance == pytest.approx(0.75)
    assert (row.identical, row.answers) == (2, 2)
    assert (rows[ALL, "auto"].identical, rows[ALL, "auto"].answers) == (
        2,
        3,
    )  # a prompt whose tokens once differed stays marked
    assert as_json(rows[ALL, "auto"])["identical"] is False
    (alone,) = rows_by_prompt(log.log)
    assert (alone.kind, alone.prompt) == ("chat", 0)
    assert alone.speedup == pytest.approx(1.5)


def test_an_answer_measured_again_counts_once() -> None:
    log = LogFile(None)
    for seconds in (9.0, 2.0):
        log.add(record(0, PLAIN, seconds))
        log.add(record(0, "auto", 1.0))
    assert rows_of(log.log)[0].speedup == pytest.approx(2.0)


def test_a_log_resumes_after_an_incomplete_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    first = LogFile(path)
    items = [
        record(0, PLAIN, 1.0, text=((1, 2), (3,))),
        Measured(TINY, COSTS, 16),
        Run("abc"),
    ]
    for item in items:
        first.add(item)  # type: ignore[arg-type]
    with path.open("a") as file:
        file.write('{"what": "answer", "subj')
    again = LogFile(path)
    assert again.log.records == [items[0]]
    assert again.log.costs == {TINY: items[1]}
    assert again.log.commits[1:] == ["abc"]
    again.add(items[0])  # type: ignore[arg-type]
    assert LogFile(path).log.records == [items[0], items[0]]
    path.write_text('{"what": "nonsense"}\n{}\n')
    with pytest.raises(UsageError, match="line 1"):
        LogFile(path)


@pytest.mark.parametrize(
    "content", [b"\xff\xff\n", b"not a record\n{}\n", None], ids=["no text", "no record", "a folder"]
)
def test_what_is_not_a_log_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "log.jsonl"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(UsageError, match=r"log\.jsonl"):
        LogFile(path)


def test_every_arm_starts_equally_often_and_both_orders_occur() -> None:
    orders = [turned("abc", turn) for turn in range(6)]
    assert orders == [[*"abc"], [*"bca"], [*"cab"], [*"cba"], [*"acb"], [*"bac"]]


def test_a_large_model_gets_more_of_the_time_and_a_small_one_more_prompts(tmp_path: Path) -> None:
    small, large = write_tiny(tmp_path / "small.gguf", Tiny(tier="Q8_0")), write_tiny(tmp_path / "l.gguf", Tiny())
    of_small, of_large = speculation.shares([str(small), str(large)], None)
    ratio = large.stat().st_size / small.stat().st_size
    assert of_small + of_large == pytest.approx(1.0)
    assert 1.0 < of_large / of_small < ratio


def test_the_time_is_divided_among_all_kinds_of_prompt() -> None:
    tasks = [Task(i, kind, (), 10) for i, kind in enumerate(["chat", "copy"] * 5)]
    assert [task.index for task in first_of_each(tasks, 2)] == [0, 1, 2, 3]
    large = Subject("m", "F16", 10**9)
    assert how_much(large, tasks, 1.0, 14.0, None).runs == 3
    assert how_much(TINY, tasks, 1.0, 6.0, None).runs == 1
    assert len(how_much(TINY, tasks, 1.0, 6.0, None).tasks) == 4
    assert len(how_much(TINY, tasks, 1.0, 0.0, None).tasks) == 2  # one of each, at least


def test_prompts_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        read_prompts(tmp_path / "none")
    (tmp_path / "bad").write_text('{"kind": "chat"}\n')
    with pytest.raises(UsageError, match="not a file of prompts"):
        read_prompts(tmp_path / "bad")


def test_the_shipped_prompts_are_ninety_in_six_kinds() -> None:
    tasks = read_prompts(Path(speculation.__file__).parents[1] / "data" / "prompts.jsonl")
    kinds = [task.kind for task in tasks]
    assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys(
        ("chat", "story", "question", "copy", "summary", "continue"), 15
    )


def arguments(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    speculation.add_arguments(parser)
    return parser.parse_args(flags)


def test_a_small_run_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every arm gives the tokens of plain decoding; a second run repeats no measurement."""
    pytest.importorskip("llama_cpp")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = write_tiny(tmp_path / "tiny.gguf", Tiny(tier="Q8_0"))
    prompts = tmp_path / "prompts.jsonl"
    user = {"role": "user", "content": "rain rain rain in the station"}
    system = {"role": "system", "content": "Answer in a few words."}
    asks = {"chat": [user], "copy": [system, user]}
    prompts.write_text(
        "".join(json.dumps({"kind": k, "messages": ask, "max_tokens": 12}) + "\n" for k, ask in asks.items())
    )
    log, picture = tmp_path / "log.jsonl", tmp_path / "picture"
    flags = [
        "--model",
        str(model),
        "--prompts",
        str(prompts),
        "--quick",
        "--minutes",
        "0.02",
        "--log",
        str(log),
        "--json",
    ]
    assert speculation.run(arguments(*flags)) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {(row["kind"], row["prompt"]) for row in rows} == {
        ("chat", None), ("copy", None), (ALL, None), ("chat", 0), ("copy", 1),
    }  # fmt: skip
    assert {"auto", "lookup", CONTROL} <= {row["arm"] for row in rows}
    assert all(row["identical"] for row in rows)
    wanted = {"model", "tier", "kind", "arm", "plain_tokens_per_s", "tokens_per_s", "speedup", "speedup_low"}
    assert all(wanted | {"speedup_high", "acceptance", "identical"} <= set(row) for row in rows)
    size = log.stat().st_size
    assert speculation.run(arguments(*flags[:-1], "--plot", str(picture))) == 0
    report = capsys.readouterr().out
    assert log.stat().st_size == size
    assert "Row costs" in report
    assert "edgeinfer bench speculation --model tiny.gguf --prompts prompts.jsonl --quick --minutes 0.02" in report
    assert picture.with_suffix(".png").stat().st_size > 1000
    assert "<svg" in picture.with_suffix(".svg").read_text()
    read = LogFile(log)
    assert {row.arm for row in rows_of(read.log)} == {row["arm"] for row in rows}


def test_the_backend_is_the_one_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = write_tiny(tmp_path / "tiny.gguf", Tiny(tier="Q8_0"))
    with Sides(str(model), ["lookup"], backend="reference") as sides:
        assert sides.plan.backend == "reference" and "lookup" in sides.decoders
    words = command_of(arguments("--model", str(model), "--backend", "reference"))
    assert " ".join(words) == "edgeinfer bench speculation --model tiny.gguf --backend reference"

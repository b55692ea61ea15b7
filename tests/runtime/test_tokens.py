"""The runtime gives the tokens of Python, from the same bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.formats.manifest import MANIFEST, sealed
from edgeinfer.types import KvType, Sampling
from edgeinfer.window import WindowPolicy
from tests.runtime.built import Runtime
from tests.runtime.child import Process
from tests.runtime.library import AUTO, EARLY_EXIT, LOOKUP, NEVER, Library, sampled_by
from tests.runtime.oracle import Turn, answers

POLICY = WindowPolicy(window=256, sink=16, block=64, limit=2048)
SAMPLED = Sampling(temperature=0.8, top_k=40, top_p=0.95, repeat_penalty=1.1, seed=7)


def random_ids(n: int, seed: int) -> tuple[int, ...]:
    return tuple(int(token) for token in np.random.default_rng(seed).integers(3, 288, n))


def conversation(sampling: Sampling) -> list[Turn]:
    """Past the wrap, with an edited end, the same prompt again, and another beginning."""
    first = random_ids(420, 1)
    return [
        Turn(first, 120, sampling),
        Turn((*first, *random_ids(30, 2)), 90, sampling),
        Turn((*first, *random_ids(30, 2)), 90, sampling),
        Turn((*first[:410], *random_ids(50, 3)), 150, sampling),
        Turn(random_ids(20, 4), 30, sampling),
    ]


def said_by_library(library: Path, bundle: Path, turns: list[Turn], drafting: int = NEVER) -> list[list[int]]:
    said = []
    with Library(library).open(bundle, context=POLICY.slots, sink=POLICY.sink, drafting=drafting) as model:
        session = model.session()
        for turn in turns:
            answer = session.generate(turn.prompt, max_tokens=turn.max_tokens, **sampled_by(turn.sampling))
            said.append(answer.tokens)
        session.free()
    return said


@pytest.mark.parametrize("sampling", [Sampling(temperature=0.0), SAMPLED], ids=["greedy", "sampled"])
def test_a_conversation_past_the_window_has_the_tokens_of_python(
    built: Runtime, tiny: Path, in_python: Process, in_runtime: Process, sampling: Sampling
) -> None:
    turns = conversation(sampling)
    expected = in_python(answers, tiny, POLICY, turns)
    assert len(POLICY.evicted(len(turns[0].prompt))) > POLICY.block
    for drafting in (NEVER, LOOKUP, EARLY_EXIT, AUTO):
        assert in_runtime(said_by_library, built.library, tiny, turns, drafting) == expected


def kept_as(kv_type: KvType, bundle: Path, folder: Path) -> Path:
    """A copy of `bundle` whose manifest has phones keep K and V as `kv_type`."""
    shutil.copytree(bundle, folder)
    fields = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    row_bytes = {"f16": 2 * fields["head_dim"], "q8_0": fields["head_dim"] + 4}[kv_type]
    fields["kv_type"] = kv_type
    fields["memory"]["kv_bytes_per_position"] = 2 * fields["n_layers"] * fields["n_kv_heads"] * row_bytes
    (folder / MANIFEST).write_text(sealed(json.dumps(fields)), encoding="utf-8")
    return folder


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_keys_and_values_are_kept_as_the_manifest_says(
    built: Runtime, tiny: Path, in_python: Process, in_runtime: Process, tmp_path: Path, kv_type: KvType
) -> None:
    turns = conversation(Sampling(temperature=0.0))
    bundle = kept_as(kv_type, tiny, tmp_path / kv_type)
    expected = in_python(answers, tiny, POLICY, turns, kv_type)
    assert expected != in_python(answers, tiny, POLICY, turns)
    for drafting in (NEVER, LOOKUP, EARLY_EXIT):
        assert in_runtime(said_by_library, built.library, bundle, turns, drafting) == expected


def test_an_answer_past_the_limit_has_the_tokens_of_python(
    built: Runtime, tiny: Path, in_python: Process, in_runtime: Process
) -> None:
    """An answer that begins below the model's limit of 2,048 positions and continues past it, re-anchored."""
    turns = [Turn(random_ids(2035, seed), 60) for seed in range(4)]
    expected = in_python(answers, tiny, POLICY, turns)
    assert max(map(len, expected)) > 20
    assert in_runtime(said_by_library, built.library, tiny, turns) == expected
    assert in_runtime(n_reanchored, built.library, tiny, turns) >= 1


def n_reanchored(library: Path, bundle: Path, turns: list[Turn]) -> int:
    with Library(library).open(bundle, context=POLICY.slots, sink=POLICY.sink) as model:
        session = model.session()
        return sum(int(session.generate(turn.prompt, max_tokens=turn.max_tokens).stats["reanchored"]) for turn in turns)


def test_the_program_prints_tokens(built: Runtime, demo: Path, in_python: Process) -> None:
    prompt = (8526, 982, 261, 601, 529, 323, 261, 749, 2234, 519)
    expected = in_python(answers, demo, WindowPolicy(window=384, sink=128, block=64, limit=2048), [Turn(prompt, 48)])
    tokens = ",".join(map(str, prompt))
    done = built.run(str(demo), "--tokens", tokens, "--temp", "0", "--max-tokens", "48", "--context", "512")
    assert (done.returncode, done.stderr) == (0, "")
    assert [int(token) for token in done.stdout.split()] == expected[0]


def test_the_program_answers_each_line(built: Runtime, tiny: Path) -> None:
    """One conversation: the second prompt reuses the cache of the first."""
    usual = (str(tiny), "--tokens", "-", "--temp", "0", "--max-tokens", "4", "--stats")
    done = built.run(*usual, lines="5,6,7\n5,6,7,8\n")
    one, other = (json.loads(line) for line in done.stderr.splitlines())
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)
    assert (one["reused"], other["reused"], other["prompt"]) == (0, 3, 4)
    done = built.run(*usual, lines="5,x\n")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: a line of standard input is not token ids with commas between them\n"

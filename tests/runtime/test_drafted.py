"""A bundle with a taught draft: the drafts of Python, and the tokens of its plain decoding."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeinfer.formats.bundle import file_of, write_ranked_tokens
from edgeinfer.formats.manifest import DRAFT_TOKENS, MANIFEST, read_manifest, write_manifest
from edgeinfer.types import Sampling
from tests.runtime.built import Runtime
from tests.runtime.child import Process, in_child
from tests.runtime.library import (
    ARTIFACT,
    AUTO,
    LOOKUP,
    NEVER,
    TAUGHT,
    USAGE,
    Info,
    Library,
    Refused,
    Said,
    Session,
    sampled_by,
)
from tests.runtime.oracle import Drafted, Turn, answers, drafted_answers
from tests.runtime.test_sessions import has_said
from tests.runtime.test_tokens import POLICY, SAMPLED, conversation, random_ids, said_by_library

GREEDY = Sampling(temperature=0.0)
NOISY = Sampling(temperature=1.5, seed=7)  # a greedy draft from the tiny model's taps is hardly ever right
MOST_DRAFTS = 8


def turns_of(sampling: Sampling) -> list[Turn]:
    """Past the wrap, canceled inside a round, then continued; an edited end, the same prompt again, another one; and
    past the limit of 2,048 positions, re-anchored."""
    first, *others = conversation(sampling)
    long = random_ids(2035, 0)
    return [replace(first, n_read=29), first, *others, Turn(long, 60, sampling), Turn((*long, 7, 8), 20, sampling)]


def said_by(session: Session, turn: Turn) -> Drafted:
    watch = partial(has_said, turn.n_read) if turn.n_read else None
    said = session.generate(turn.prompt, watch, max_tokens=turn.max_tokens, **sampled_by(turn.sampling))
    stats = {what: int(said.stats[what]) for what in ("rounds", "drafted", "accepted", "reanchored")}
    return Drafted(tuple(said.tokens), **stats)


def said_in_turn(library: Path, bundle: Path, turns: list[Turn]) -> list[tuple[Drafted, Drafted]]:
    """The same turns in two conversations of one model, which alternate."""
    options = {"context": POLICY.slots, "sink": POLICY.sink, "drafting": TAUGHT, "n_sessions": 2}
    with Library(library).open(bundle, **options) as model:
        one, other = model.session(), model.session()
        return [(said_by(one, turn), said_by(other, turn)) for turn in turns]


def check_drafts(built: Runtime, in_python: Process, in_runtime: Process, bundle: Path, sampling: Sampling) -> None:
    turns = turns_of(sampling)
    expected = in_python(drafted_answers, bundle, POLICY, turns, MOST_DRAFTS)
    assert max(answer.reanchored for answer in expected) > 0
    assert all(0 < sum(answer.accepted for answer in part) < sum(answer.drafted for answer in part)
               for part in (expected[:5], expected[5:]))  # fmt: skip
    assert in_runtime(said_in_turn, built.library, bundle, turns) == [(answer, answer) for answer in expected]


def test_a_feature_draft_proposes_what_python_proposes(
    built: Runtime, in_python: Process, in_runtime: Process, with_feature_draft: Path
) -> None:
    for sampling in (NOISY, GREEDY):
        check_drafts(built, in_python, in_runtime, with_feature_draft, sampling)


def test_an_exit_draft_proposes_what_python_proposes(
    built: Runtime, in_python: Process, in_runtime: Process, with_exit_draft: Path
) -> None:
    check_drafts(built, in_python, in_runtime, with_exit_draft, GREEDY)


def test_sampled_drafts_have_the_noise_of_their_tokens(
    built: Runtime, in_python: Process, in_runtime: Process, with_feature_draft: Path, with_exit_draft: Path
) -> None:
    for bundle in (with_feature_draft, with_exit_draft):
        check_drafts(built, in_python, in_runtime, bundle, SAMPLED)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("kind", ["feature", "exit"])
def test_a_drafted_bundle_has_the_tokens_of_plain_decoding(
    built: Runtime,
    in_python: Process,
    in_runtime: Process,
    kind: str,
    sampling: Sampling,
    request: pytest.FixtureRequest,
) -> None:
    bundle, turns = request.getfixturevalue(f"with_{kind}_draft"), conversation(sampling)
    expected = in_python(answers, bundle, POLICY, turns)
    for drafting in (NEVER, LOOKUP, TAUGHT, AUTO):
        assert in_runtime(said_by_library, built.library, bundle, turns, drafting) == expected


def test_the_program_drafts(built: Runtime, with_feature_draft: Path) -> None:
    """With no stderr but the stats."""
    usual = [str(with_feature_draft), "--tokens", "5,6,7", "--temp", "0", "--max-tokens", "40", "--stats", "--draft"]
    plain, drafted = (built.run(*usual, how) for how in ("off", "taught"))
    assert drafted.stdout == plain.stdout and len(plain.stdout.split()) > 10
    one, other = json.loads(plain.stderr), json.loads(drafted.stderr)
    assert (one["draft"], one["drafted"]) == ("", 0)
    assert other["draft"] == "feature" and other["drafted"] >= other["accepted"] > 0


def with_costs(folder: Path, verify_s: Callable[[int], float], draft_s: float) -> None:
    """Replaces the measured costs in `folder`: seconds of rows, and of a draft."""
    [path] = folder.glob("*.costs")
    lines = path.read_text(encoding="utf-8").splitlines()[:3]
    lines += [f"{part} {rows} {verify_s(rows)}" for part in ("verify", "back", "back_short") for rows in range(1, 17)]
    lines += [f"exit_draft 1 {draft_s}", f"exit_draft 2 {draft_s}", "end"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def with_cheap_and_dear_rows(library: Library, bundle: Path, folder: Path) -> list[tuple[Info, Said]]:
    """What the bundle says of itself, and its answer, where rows and drafts are free and where they are dear."""
    options: dict[str, Any] = {"context": POLICY.slots, "sink": POLICY.sink, "cache_folder": str(folder).encode()}
    library.open(bundle, drafting=AUTO, **options).close()
    found = []
    for verify_s, draft_s in ((lambda _: 1e-3, 1e-5), (lambda rows: 1e-3 * rows, 1e-3)):
        with_costs(folder, verify_s, draft_s)
        model = library.open(bundle, drafting=AUTO, **options)
        found.append((model.info(), model.session().generate(random_ids(60, 1), max_tokens=60)))
        model.close()
    return found


@in_child
def test_a_draft_is_used_where_its_costs_pay(built: Runtime, with_feature_draft: Path, tmp_path: Path) -> None:
    (used, drafted), (unused, plain) = with_cheap_and_dear_rows(Library(built.library), with_feature_draft, tmp_path)
    assert (used.draft, used.note, unused.draft) == (b"feature", b"", b"")
    # 1.5 tokens for one draft, as long as a plain round, and a verify of twice that
    assert unused.note == b"not drafting: feature, at best 0.50x plain speed by the rows measured here"
    assert drafted.tokens == plain.tokens
    assert drafted.stats["drafted"] > 0


@in_child
def test_early_exit_is_left_out_where_its_best_fixed_depth_would_win_too_little(
    built: Runtime, tiny: Path, tmp_path: Path
) -> None:
    (used, drafted), (unused, plain) = with_cheap_and_dear_rows(Library(built.library), tiny, tmp_path)
    assert used.note == b""
    # 1.72 tokens for one draft, as long as a plain round, and a verify of twice that
    assert unused.note == b"not drafting: early-exit, at best 0.57x plain speed by the rows measured here"
    assert drafted.tokens == plain.tokens
    assert drafted.stats["drafted"] > plain.stats["drafted"]


def test_an_estimate_counts_what_a_draft_keeps(
    built: Runtime, in_runtime: Process, with_feature_draft: Path, with_exit_draft: Path
) -> None:
    ring = 320 * 2 * 64 * 4  # positions, K and V, 2 heads of 32 values, float32
    kept = {with_feature_draft: 512 * 3 * 128 * 4, with_exit_draft: 512 * 128 * 4}  # states of 512 positions
    for bundle, states in kept.items():
        drafted, plain = (in_runtime(session_bytes, built.library, bundle, drafting) for drafting in (AUTO, NEVER))
        assert (plain, drafted) == (4 * ring, 5 * ring + states)  # four layers, and the draft's


def session_bytes(library: Path, bundle: Path, drafting: int) -> int:
    return int(Library(library).estimate(bundle, context=320, drafting=drafting).session_bytes)


@pytest.mark.parametrize("ids", [[*range(223), 0], [*range(223), 288], [*range(223), -1]])
def test_ranked_tokens_must_be_tokens_of_the_model(
    built: Runtime, in_runtime: Process, with_feature_draft: Path, tmp_path: Path, ids: list[int]
) -> None:
    bundle = Path(shutil.copytree(with_feature_draft, tmp_path / "b"))
    write_ranked_tokens(bundle, np.array(ids, np.int32))
    manifest = read_manifest(bundle / MANIFEST)
    write_manifest(bundle, replace(manifest, files={**manifest.files, DRAFT_TOKENS: file_of(bundle / DRAFT_TOKENS)}))
    cause = f"{bundle / DRAFT_TOKENS} must name each token once, from 0 to 287"
    in_runtime(check_refused, built.library, bundle, AUTO, ARTIFACT, cause)


def test_a_bundle_without_a_draft_cannot_be_asked_for_it(built: Runtime, in_runtime: Process, tiny: Path) -> None:
    in_runtime(check_refused, built.library, tiny, TAUGHT, USAGE, "this bundle has no taught draft to draft with")


def check_refused(library: Path, bundle: Path, drafting: int, code: int, cause: str) -> None:
    with pytest.raises(Refused) as caught:
        Library(library).open(bundle, drafting=drafting).session()
    assert (caught.value.code, str(caught.value)) == (code, cause)

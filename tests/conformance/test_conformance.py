"""One suite for every backend that can run on this machine. The mutants prove that its checks can fail."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from edgeinfer.types import Sampling
from tests.conformance import blocks, checks, drafted, together
from tests.conformance.backends import available, write_model
from tests.conformance.forced import Piecewise
from tests.conformance.plain import GREEDY, SAMPLED, Case, Check

DRAFTERS = ["early-exit", "gated-early", "lookup", "draft", "forced", "forced-early"]
SETTINGS = pytest.mark.parametrize("how", [GREEDY, SAMPLED], ids=["greedy", "sampled"])


@pytest.fixture(scope="module", params=available(), ids=lambda subject: subject.name)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    path = write_model(request.param, tmp_path_factory.mktemp("tiny"))
    model = request.param.open(path)
    yield Case(request.param, model, path)
    model.close()


@pytest.fixture
def exact(case: Case) -> Case:
    """Skips backends whose rows are only close: their tokens may differ at a tie, so only rows are compared."""
    if case.model.exact_rows is None:
        pytest.skip("rows of this backend are close, not equal")
    return replace(case, model=Piecewise(case.model, case.model.exact_rows))


@pytest.mark.parametrize(
    "check",
    [
        drafted.check_draft_rows,
        drafted.check_draft_rows_after_rewind,
        drafted.check_draft_rows_together,
        drafted.check_draft_rows_after_neighbors,
        drafted.check_draft_of_another_model,
    ],
    ids=lambda check: check.__name__.removeprefix("check_"),
)
def test_taught_draft(case: Case, check: Check) -> None:
    if not case.subject.has_draft:
        pytest.skip("this model has no taught draft")
    check(case)


def test_reference_runs_everywhere() -> None:
    assert any(subject.name.startswith("reference") for subject in available())


@SETTINGS
@pytest.mark.parametrize("name", DRAFTERS)
def test_lossless(exact: Case, name: str, how: Sampling) -> None:
    if "early" in name and not exact.model.drafts_with:
        pytest.skip("this model does not draft")
    checks.check_lossless(exact, name, how)


@pytest.mark.parametrize("name", DRAFTERS)
def test_lossless_but_for_ties(case: Case, name: str) -> None:
    if case.model.exact_rows is not None:
        pytest.skip("held to equal tokens")
    if "early" in name and not case.model.drafts_with:
        pytest.skip("this model does not draft")
    checks.check_lossless_but_for_ties(case, name)


@SETTINGS
def test_plain(exact: Case, how: Sampling) -> None:
    checks.check_plain(exact, how)


@SETTINGS
def test_decoders_in_step(exact: Case, how: Sampling) -> None:
    together.check_decoders(exact, how)


def test_decoders_in_step_but_for_ties(case: Case) -> None:
    if case.model.exact_rows is not None:
        pytest.skip("held to equal tokens")
    together.check_decoders(case, GREEDY)


def test_a_decoder_that_stops(exact: Case) -> None:
    together.check_a_decoder_that_stops(exact)


@SETTINGS
def test_stop_inside_an_accepted_draft(exact: Case, how: Sampling) -> None:
    checks.check_stop(exact, how)


@SETTINGS
def test_max_tokens_inside_an_accepted_draft(exact: Case, how: Sampling) -> None:
    checks.check_max_tokens(exact, how)


@SETTINGS
def test_reader_walks_away(exact: Case, how: Sampling) -> None:
    checks.check_walk_away(exact, how)


@pytest.mark.parametrize("verb", ["draft", "verify", "commit"])
def test_engine_error_in_the_middle(exact: Case, verb: str) -> None:
    if verb == "draft" and not exact.model.drafts_with:
        pytest.skip("this model does not draft")
    checks.check_engine_error(exact, verb, GREEDY)


@pytest.mark.parametrize(
    "check",
    [
        checks.check_oracle,
        checks.check_chunks,
        checks.check_rounds,
        checks.check_rollback,
        checks.check_other_than_drafted,
        checks.check_rewind,
        checks.check_bytes,
        checks.check_misuse,
        checks.check_bad_token,
        checks.check_close,
        together.check_together,
        together.check_rows_in_step,
        together.check_bad_token,
        together.check_failing_step,
        together.check_closing_neighbor,
        together.check_neighbor_that_left,
        blocks.check_blocks,
        blocks.check_blocks_past_evictions,
        blocks.check_blocks_that_do_not_fit,
    ],
    ids=lambda check: f"{check.__module__.rpartition('.')[2]}-{check.__name__}".replace("-check_", "-"),
)
def test_backend(case: Case, check: Check) -> None:
    check(case)

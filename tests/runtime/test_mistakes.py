"""Seeded mistakes in the sessions of the runtime: each is compiled, and a test of the suite finds it.

They take minutes, so they run on demand: EDGEINFER_MISTAKES=1.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from pickle import PicklingError

import pytest

from tests.runtime import test_bad_input as bad_input
from tests.runtime import test_chat as chat
from tests.runtime import test_drafted as drafted
from tests.runtime import test_sessions as sessions
from tests.runtime.built import SOURCES, CompiledCopy, Runtime
from tests.runtime.child import Process
from tests.runtime.library import Refused

pytestmark = pytest.mark.skipif(
    not os.environ.get("EDGEINFER_MISTAKES"), reason="EDGEINFER_MISTAKES=1 compiles seeded mistakes, for minutes"
)


@dataclass(frozen=True, slots=True)
class Mistake:
    name: str
    file: str
    before: str
    after: str
    found_by: Callable[..., None]


FOUND = (AssertionError, Refused, BrokenProcessPool, PicklingError)
"""The last one stands for what pytest.raises did not see, in the other process."""
MISTAKES = (
    Mistake("cancel is not looked at", "session.cpp", "step(canceled_ || model_->is_closing())",
            "step(model_->is_closing())", sessions.test_cancel_in_a_callback_and_in_another_thread),
    Mistake("closing waits for the whole answer", "session.cpp", "step(canceled_ || model_->is_closing())",
            "step(canceled_)", sessions.test_closing_ends_the_answer_first),
    Mistake("cancel returns too early", "session.cpp",
            "idle_.wait(lock, [&] { return !running_ || n_answers_ != n; });", "(void)n;",
            sessions.test_another_answer_may_begin_once_cancel_returns),
    Mistake("a canceled session stays canceled", "session.cpp", "    session.canceled_ = false;\n", "",
            bad_input.test_a_callback_that_ends_the_answer_at_once),
    Mistake("an answer without a word is kept", "session.cpp", "if (writer.shown().empty()) return;", "",
            chat.test_what_a_stopped_chat_remembers),
    Mistake("going back keeps one message more", "session.cpp", "turns_.begin() + static_cast<ptrdiff_t>(n)",
            "turns_.begin() + static_cast<ptrdiff_t>(n + 1)", chat.test_what_a_stopped_chat_remembers),
    Mistake("a session too many", "model.cpp", "n >= static_cast<size_t>", "n > static_cast<size_t>",
            sessions.test_sessions_and_models_run_at_once),
    Mistake("an answer runs to its end", "worker.cpp", "jobs_.push_back(&job);\n      continue",
            "jobs_.push_front(&job);\n      continue", sessions.test_sessions_take_turns),
    Mistake("closing in a callback waits for itself", "edgeinfer.cpp", "if (closing->worker().is_this_thread())",
            "if (false)", sessions.test_closing_and_freeing_in_a_callback),
    Mistake("tokens that were not read are counted", "loop.cpp", "stats_.emitted -= n_unread;", "",
            sessions.test_a_round_of_several_tokens_ends_at_its_reader),
    Mistake("tokens after the last read one are given", "answer.cpp",
            "!stops_.stopped() && !walked_away_) continue;", "!stops_.stopped()) continue;",
            sessions.test_a_round_of_several_tokens_ends_at_its_reader),
    Mistake("the newest token is believed to be cached", "timeline.cpp",
            "std::min(common_prefix(timeline.tokens, prompt.tokens), n - 1)",
            "common_prefix(timeline.tokens, prompt.tokens)", sessions.test_a_callback_ends_the_answer_at_its_token),
    Mistake("tokens that are not in the cache are reused", "loop.cpp", "  timeline_.settle(cache_.length());\n", "",
            sessions.test_cancel_in_a_callback_and_in_another_thread),
    Mistake("a hint gets lost", "edgeinfer.cpp", "copy_line(caught.hint, error->hint, sizeof error->hint);",
            "error->hint[0] = 0;", bad_input.test_broken_bundles_are_refused),
    Mistake("trimming memory empties the cache", "model.cpp", "program_->trim(); });",
            "program_->trim(); for (Session* session : sessions_) session->release(); });",
            sessions.test_trimming_memory_changes_no_answer),
    Mistake("weights of a cut file are trusted", "packed_weights.cpp", "if (is_whole()) return \"\";",
            "if (fs::exists(path_)) return \"\";", bad_input.test_a_cache_folder_on_a_full_disk),
    Mistake("true states are not fed after acceptance", "taught.cpp", "std::min<int64_t>(n_kept, 1)", "n_kept",
            drafted.test_a_feature_draft_proposes_what_python_proposes),
    Mistake("taps are one position late", "taught.cpp", "layer_.length() + i - 1", "layer_.length() + i",
            drafted.test_a_feature_draft_proposes_what_python_proposes),
    Mistake("a feature draft is not rolled back", "taught.cpp",
            "layer_.rewind(std::min(layer_.length(), std::max(layer_.first(), n_true)));", "(void)n_true;",
            drafted.test_a_feature_draft_proposes_what_python_proposes),
    Mistake("an exit draft is not rolled back", "taught.cpp",
            "void end(int64_t n_kept) override { layer_.rewind(std::min(layer_.length(), length_ + n_kept)); }",
            "void end(int64_t) override {}", drafted.test_an_exit_draft_proposes_what_python_proposes),
    Mistake("states of accepted drafts are fed twice", "taught.cpp", "seen + n_run * hidden_", "seen + 0 * n_run",
            drafted.test_an_exit_draft_proposes_what_python_proposes),
    Mistake("a draft outlives a rewind", "cache.cpp", "  if (taught_) taught_->rewind(length);\n", "",
            drafted.test_an_exit_draft_proposes_what_python_proposes),
    Mistake("ranked ids are off by one", "cache.cpp", "static_cast<size_t>(ranked)]",
            "static_cast<size_t>(ranked + 1) % program_.row_.size()]",
            drafted.test_a_feature_draft_proposes_what_python_proposes),
)  # fmt: skip


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> CompiledCopy:
    return CompiledCopy.of(SOURCES, tmp_path_factory.mktemp("mistakes"), "-O1")


@pytest.fixture(scope="module")
def bundles(tiny: Path, demo: Path, with_feature_draft: Path, with_exit_draft: Path) -> dict[str, Path]:
    return {
        "tiny": tiny,
        "demo": demo,
        "with_feature_draft": with_feature_draft,
        "with_exit_draft": with_exit_draft,
    }


def run(test: Callable[..., None], copy: CompiledCopy, bundles: dict[str, Path], tmp_path: Path) -> None:
    with closing(Process()) as in_python, closing(Process()) as in_runtime:  # a library is loaded once in a process
        fixtures = {
            "built": Runtime(copy.compiled),
            "in_python": in_python,
            "in_runtime": in_runtime,
            "tmp_path": tmp_path,
            **bundles,
        }
        test(**{name: value for name, value in fixtures.items() if name in test.__annotations__})


@pytest.mark.parametrize(
    "test", dict.fromkeys(mistake.found_by for mistake in MISTAKES), ids=lambda test: test.__name__
)
def test_without_a_mistake_it_passes(
    test: Callable[..., None], copy: CompiledCopy, bundles: dict[str, Path], tmp_path: Path
) -> None:
    run(test, copy, bundles, tmp_path)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_found(mistake: Mistake, copy: CompiledCopy, bundles: dict[str, Path], tmp_path: Path) -> None:
    with (
        copy.mistake(mistake.file, mistake.before, mistake.after),
        pytest.raises(FOUND),
    ):
        run(mistake.found_by, copy, bundles, tmp_path)

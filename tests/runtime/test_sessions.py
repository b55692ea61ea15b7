"""Sessions and their threads: cancel, close, two at once, and freed memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.runtime.built import Runtime
from tests.runtime.child import in_child
from tests.runtime.library import CANCELED, LENGTH, LOOKUP, Library, Model, Refused, Said, Session
from tests.runtime.sanitized import SANITIZER
from tests.runtime.test_prompts import read_prompts

CONTEXT = 320  # a window of 256 and 64 sinks
USAGE = 2


def random_ids(n: int, seed: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(3, 288, n)]


def answered_at_length(session: Session, n_tokens: int) -> tuple[list[int], list[int]]:
    """A prompt and its answer of `n_tokens` tokens, none of which ends a turn."""
    for seed in range(100):
        prompt = random_ids(40, seed)
        said = session.generate(prompt, max_tokens=n_tokens)
        if said.stats["finish"] == LENGTH:
            return prompt, said.tokens
    raise AssertionError(f"no answer of {n_tokens} tokens")


def after(n_tokens: int, action: Callable[[], object]) -> Callable[[Said], bool]:
    """Calls `action` once, after `n_tokens` tokens."""
    done = threading.Event()

    def watch(said: Said) -> bool:
        if len(said.tokens) >= n_tokens and not done.is_set():
            done.set()
            action()
        return False

    return watch


def has_said(n_tokens: int, said: Said) -> bool:
    return len(said.tokens) == n_tokens


def opened(built: Runtime, bundle: Path, **options: int) -> Model:
    return Library(built.library).open(bundle, **{"context": CONTEXT, "sink": 64, **options})


@in_child
def test_a_callback_ends_the_answer_at_its_token(built: Runtime, tiny: Path) -> None:
    model = opened(built, tiny)
    session = model.session()
    prompt, whole = answered_at_length(session, 60)
    for n in (1, 2, 17):
        said = session.generate(prompt, watch=partial(has_said, n), max_tokens=60)
        assert said.tokens == whole[:n]
        assert (said.stats["finish"], said.stats["emitted"]) == (CANCELED, n)
    assert session.generate(prompt, max_tokens=60).tokens == whole
    model.close()
    session.free()


@in_child
def test_cancel_in_a_callback_and_in_another_thread(built: Runtime, tiny: Path) -> None:
    """The next answer reuses the cache and is unchanged."""
    model = opened(built, tiny)
    session = model.session()
    prompt, whole = answered_at_length(session, 120)
    said = session.generate(prompt, watch=after(5, session.cancel), max_tokens=120)
    assert (said.tokens, said.stats["finish"]) == (whole[:5], CANCELED)

    started = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(session.generate, prompt, after(3, started.set), max_tokens=120)
        started.wait()
        session.cancel()
        n_said = len(answer.result().tokens)
    assert answer.result().stats["finish"] == CANCELED and 3 <= n_said < 120
    session.cancel()  # without an answer it does nothing
    more = session.generate([*prompt, *whole[:n_said], 7], max_tokens=20)
    assert more.stats["reused"] == len(prompt) + n_said - 1  # the newest token was not in the cache yet
    fresh = opened(built, tiny).session()
    assert more.tokens == fresh.generate([*prompt, *whole[:n_said], 7], max_tokens=20).tokens


@in_child
def test_another_answer_may_begin_once_cancel_returns(built: Runtime, tiny: Path) -> None:
    session = opened(built, tiny).session()
    prompt, _ = answered_at_length(session, 120)
    with ThreadPoolExecutor(1) as pool:
        for _ in range(20):
            started = threading.Event()
            answer = pool.submit(session.generate, prompt, after(1, started.set), max_tokens=2000)
            started.wait()
            session.cancel()
            assert session.generate([5, 6], max_tokens=1).stats["emitted"] == 1
            assert answer.result().stats["finish"] == CANCELED


@in_child
def test_a_round_of_several_tokens_ends_at_its_reader(built: Runtime, demo: Path) -> None:
    """Tokens of the round that the reader did not take are no part of the answer."""
    session = opened(built, demo, context=1024, drafting=LOOKUP).session()
    question = read_prompts()[3]
    assert question.startswith("Repeat this text exactly:")
    whole, n_cut = session.chat(question, max_tokens=40).tokens, 0
    for n in range(1, len(whole)):
        session.rewind(0)
        said = session.chat(question, watch=partial(has_said, n), max_tokens=40)
        assert (said.tokens, said.stats["emitted"]) == (whole[:n], n)
        n_cut += said.stats["accepted"] + said.stats["rounds"] + 1 > n  # the first token is of no round
    assert n_cut > 0
    session.rewind(0)
    assert session.chat(question, max_tokens=40).tokens == whole


@in_child
def test_sessions_take_turns(built: Runtime, tiny: Path) -> None:
    """A short answer ends while a long one of another session is written."""
    model = opened(built, tiny, n_sessions=2)
    long, short = model.session(), model.session()
    prompt, _ = answered_at_length(long, 120)
    started = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(long.generate, prompt, after(1, started.set), max_tokens=2000)
        started.wait()
        short.generate([5, 6, 7], max_tokens=5)
        assert not answer.done()
        long.cancel()
        assert answer.result().stats["finish"] == CANCELED


@in_child
def test_cancel_inside_a_prompt(built: Runtime, tiny: Path) -> None:
    """Between two chunks. The part of the prompt that was run is reused."""
    model = opened(built, tiny)
    session = model.session()
    prompt = random_ids(1500, 3)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(session.generate, prompt, None, max_tokens=20)
        while not answer.done():
            session.cancel()  # without an answer it does nothing
        said = answer.result()
    assert (said.tokens, said.stats["finish"]) == ([], CANCELED)
    assert said.stats["prefilled"] < len(prompt)
    assert session.generate(prompt, max_tokens=20).tokens == opened(built, tiny).session().generate(
        prompt, max_tokens=20
    ).tokens  # fmt: skip


@in_child
def test_sessions_and_models_run_at_once(built: Runtime, tiny: Path) -> None:
    """Each gives the answer that it gives alone."""
    prompts = [random_ids(200, seed) for seed in (4, 5, 6)]
    alone = [opened(built, tiny).session().generate(prompt, max_tokens=150).tokens for prompt in prompts]
    one, other = opened(built, tiny, n_sessions=2), opened(built, tiny)
    sessions = [one.session(), one.session(), other.session()]
    with ThreadPoolExecutor(3) as pool:
        answers = [
            pool.submit(session.generate, prompt, None, max_tokens=150)
            for session, prompt in zip(sessions, prompts, strict=True)
        ]
        assert [answer.result().tokens for answer in answers] == alone
    with pytest.raises(Refused, match="2 of 2 sessions are open") as caught:
        one.session()
    assert caught.value.code == USAGE and caught.value.hint
    sessions[0].free()
    one.session().free()


@in_child
def test_trimming_memory_changes_no_answer(built: Runtime, tiny: Path) -> None:
    """Between two answers, and in a callback, where it does nothing. The cache is kept."""
    model = opened(built, tiny)
    session = model.session()
    prompt, whole = answered_at_length(session, 60)
    for watch in (None, after(3, model.trim_memory)):
        model.trim_memory()
        said = session.generate(prompt, watch, max_tokens=60)
        assert (said.tokens, said.stats["reused"]) == (whole, len(prompt) - 1)


@in_child
def test_closing_ends_the_answer_first(built: Runtime, tiny: Path) -> None:
    model = opened(built, tiny)
    session = model.session()
    prompt, _ = answered_at_length(session, 120)
    started = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(session.generate, prompt, after(3, started.set), max_tokens=2000)
        started.wait()
        model.close()
        assert answer.result().stats["finish"] == CANCELED
    with pytest.raises(Refused, match="the model is closed"):
        session.generate([5], max_tokens=1)
    session.cancel()
    session.free()


@in_child
def test_closing_and_freeing_in_a_callback(built: Runtime, tiny: Path) -> None:
    """The header forbids it; it takes effect after the callback has returned."""
    model = opened(built, tiny)
    session = model.session()
    prompt, _ = answered_at_length(session, 60)
    said = session.generate(prompt, watch=after(3, model.close), max_tokens=2000)
    assert said.stats["finish"] == CANCELED
    session.free()


@in_child
def test_a_second_answer_of_a_session_is_refused(built: Runtime, tiny: Path) -> None:
    session = opened(built, tiny).session()
    prompt, _ = answered_at_length(session, 10)
    caught: list[str] = []

    def ask_again() -> None:
        try:
            session.generate([5], max_tokens=1)
        except Refused as error:
            caught.append(str(error))

    started, refused = threading.Event(), threading.Event()

    def hold() -> None:
        started.set()
        refused.wait()
        ask_again()  # in the callback

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(session.generate, prompt, after(2, hold), max_tokens=10)
        started.wait()
        ask_again()
        refused.set()
        assert answer.result().stats["finish"] == LENGTH
    assert caught == ["another answer is being written"] * 2


@pytest.mark.skipif(bool(SANITIZER), reason="a sanitizer keeps what is freed")
@in_child
def test_closing_frees_memory(built: Runtime, tiny: Path) -> None:
    def cycle() -> None:
        model = opened(built, tiny)
        session = model.session()
        session.generate(random_ids(20, 10), max_tokens=3)
        session.free()
        model.close()

    assert growth(cycle, 200) < 2_000_000


@pytest.mark.skipif(bool(SANITIZER), reason="a sanitizer keeps what is freed")
@in_child
def test_answers_do_not_leak_memory(built: Runtime, tiny: Path) -> None:
    session = opened(built, tiny).session()
    assert growth(lambda: session.generate(random_ids(20, 11), max_tokens=5), 200) < 2_000_000


@pytest.mark.skipif(bool(SANITIZER), reason="a sanitizer takes memory of its own")
@in_child
def test_memory_is_that_of_the_manifest(built: Runtime, demo: Path, tmp_path: Path) -> None:
    """Within a tenth, with weights in memory and as pages of a file; and it is freed."""
    library = Library(built.library)
    for folder in ({}, {"cache_folder": str(tmp_path).encode()}):
        expected = library.estimate(demo, context=2048, **folder)
        before = psutil.Process().memory_info()
        model = library.open(demo, context=2048, **folder)
        session = model.session()
        session.chat("Tell me a story about a dog.", max_tokens=30)
        used = psutil.Process().memory_info().rss - before.rss
        assert abs(used - expected.total_bytes) < 0.1 * expected.total_bytes
        assert (expected.dirty_bytes < expected.total_bytes) == bool(folder)
        session.free()
        model.close()
        # Pages of libraries and of a heap stay, 5 to 9 MB, but do not add up: see test_closing_frees_memory.
        assert psutil.Process().memory_info().rss - before.rss < 12_000_000


def growth(action: Callable[[], object], n: int) -> int:
    for _ in range(5):
        action()
    before = psutil.Process().memory_info().rss
    for _ in range(n):
        action()
    return int(psutil.Process().memory_info().rss - before)

"""The prompts of the speculation bench: the runtime, plain and drafting as it likes, says what Python says plainly."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

import edgeinfer
from edgeinfer.types import GREEDY, Sampling
from tests.runtime.built import Runtime
from tests.runtime.child import Process
from tests.runtime.library import AUTO, LOOKUP, NEVER, Library
from tests.runtime.sanitized import SANITIZER

PROMPTS = Path(edgeinfer.__file__).parent / "bench/data/prompts.jsonl"
CONTEXT, MAX_TOKENS = 1024, 24
STEP = 9 if SANITIZER else 1  # a sanitizer runs ten of the prompts
SAMPLED = Sampling(temperature=0.8, top_k=40, top_p=0.95, seed=5)
SMOLLM2 = os.environ.get("EDGEINFER_SMOLLM2_BUNDLE", "")
"""A bundle of SmolLM2-135M-Instruct: its export takes five minutes, so it is made by hand."""


def read_prompts() -> tuple[str, ...]:
    conversations = [json.loads(line)["messages"] for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    return tuple(question["content"] for (question,) in conversations)


def by_python(bundle: Path, prompts: tuple[str, ...], sampling: Sampling) -> list[tuple[int, ...]]:
    request = edgeinfer.Request(model=str(bundle), backend="executorch", context=CONTEXT, speculation="off")
    said = []
    with edgeinfer.load(request) as model:
        for index, question in enumerate(prompts):
            with model.chat() as chat:
                how = replace(sampling, seed=sampling.seed + index)
                said.append(chat.ask(question, sampling=how, max_tokens=MAX_TOKENS).tokens)
    return said


def by_library(
    library: Path, bundle: Path, prompts: tuple[str, ...], sampling: Sampling, drafting: int
) -> tuple[list[tuple[int, ...]], int]:
    """The answers, and how many of their tokens were drafted."""
    said, n_accepted = [], 0
    with Library(library).open(bundle, context=CONTEXT, drafting=drafting) as model:
        for index, question in enumerate(prompts):
            session = model.session()
            answer = session.chat(
                question,
                max_tokens=MAX_TOKENS,
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                seed=sampling.seed + index,
            )
            said.append(tuple(answer.tokens))
            n_accepted += int(answer.stats["accepted"])
            session.free()
    return said, n_accepted


@cache
def expected(in_python: Process, bundle: Path, prompts: tuple[str, ...], sampling: Sampling) -> list[tuple[int, ...]]:
    return in_python(by_python, bundle, prompts, sampling)


@pytest.mark.parametrize("drafting", [NEVER, LOOKUP, AUTO], ids=["plain", "lookup", "auto"])
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_every_prompt_has_the_answer_of_plain_decoding(
    built: Runtime, demo: Path, in_python: Process, in_runtime: Process, sampling: Sampling, drafting: int
) -> None:
    prompts = read_prompts()[::STEP]
    assert len(prompts) == 90 // STEP
    said, n_accepted = in_runtime(by_library, built.library, demo, prompts, sampling, drafting)
    assert said == expected(in_python, demo, prompts, sampling)
    if drafting == LOOKUP:  # what `auto` drafts depends on the speed of the machine
        assert n_accepted > 0


@pytest.mark.skipif(not SMOLLM2, reason="EDGEINFER_SMOLLM2_BUNDLE names no bundle of SmolLM2-135M-Instruct")
@pytest.mark.parametrize("drafting", [NEVER, AUTO], ids=["plain", "auto"])
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_thirty_prompts_of_smollm2(
    built: Runtime, in_python: Process, in_runtime: Process, sampling: Sampling, drafting: int
) -> None:
    bundle, prompts = Path(SMOLLM2), read_prompts()[:30]
    said, _ = in_runtime(by_library, built.library, bundle, prompts, sampling, drafting)
    assert said == expected(in_python, bundle, prompts, sampling)

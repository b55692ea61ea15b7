"""The model that ships with the package, with a real early exit: English text, past evictions and a re-anchoring."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.decode.drafters.early_exit import EarlyExit
from edgeinfer.decode.loop import Decoder
from edgeinfer.decode.policy.arms import Arm, Fixed
from edgeinfer.protocols import Model
from edgeinfer.types import Prompt, Sampling
from edgeinfer.window import WindowPolicy
from tests.conformance import plain
from tests.conformance.backends import LLAMA, Subject, gguf, missing_gguf, reference

DEMO = Path(__file__).parents[2] / "edgeinfer/models/demo.Q4_0.gguf"
POLICY = WindowPolicy(window=32, sink=8, block=8, limit=72)  # the prompt has 36 tokens
SYSTEM = "<|im_start|>system\n"
TEXT = (
    SYSTEM + "Be kind.<|im_end|>\n<|im_start|>user\nRepeat: the cat sat on the mat.<|im_end|>\n<|im_start|>assistant\n"
)


@pytest.fixture(scope="module")
def demo() -> Iterator[Model]:
    model = reference("f32")(DEMO)
    yield model
    model.close()


def prompt_for(model: Model) -> Prompt:
    encode = model.tokenizer.encode
    return Prompt(tuple(encode(TEXT, special=True)), n_system=len(encode(SYSTEM, special=True)))


def test_the_trained_exit_is_lossless(demo: Model) -> None:
    prompt, n, how = prompt_for(demo), 50, Sampling(temperature=0.7, top_p=0.95, seed=2)
    arm, drafters = Fixed(Arm("early-exit", 3)), {"early-exit": EarlyExit()}
    decoder = Decoder(demo, POLICY, controller=arm, drafters=drafters)
    assert plain.answer(decoder, prompt, how, n) == plain.plain_answer(case_of(demo), prompt, how, n)
    stats = decoder.stats
    assert stats.reanchored == 1 and stats.evicted >= 3 * POLICY.block
    assert 0.2 < stats.accepted / stats.drafted < 1
    decoder.close()


def test_english_text_is_likely(demo: Model) -> None:
    """The weights of the real file are read correctly: chance would be 9.7 nats per token."""
    tokens = demo.tokenizer.encode("The little dog ran to the door and looked out of the window.", special=False)
    cache = demo.new_cache(POLICY)
    rows = cache.begin(len(tokens)).verify(tokens)
    cache.close()
    told = [-log_softmax(row.numpy())[token] for row, token in zip(rows, tokens[1:], strict=False)]
    assert len(told) > 10 and np.mean(told) < 5.0


@pytest.mark.skipif(bool(missing_gguf()), reason="llama.cpp is not here")
def test_llama_cpp_agrees_with_the_reference(demo: Model) -> None:
    """llama.cpp rounds activations to 8 bits for Q4_0 weights, so the distributions are close but not equal."""
    told = "Once upon a time there was a dog. He lived in a small house with a garden and a tree."
    tokens = demo.tokenizer.encode(TEXT + told, special=True)[: POLICY.limit - 1]
    ours = [log_softmax(row) for row in rows_in_blocks(demo, tokens)]
    theirs_model = gguf("f16")(DEMO)
    theirs = [log_softmax(row) for row in plain.plain_rows(case_of(theirs_model), tokens)]
    theirs_model.close()
    divergence = [float((np.exp(a) * (a - b)).sum()) for a, b in zip(ours, theirs, strict=True)]
    assert len(POLICY.evicted(len(tokens))) >= 2 * POLICY.block  # past the wrap
    assert np.mean(divergence) < 0.01 and max(divergence) < 0.1  # nats
    assert np.mean([a.argmax() == b.argmax() for a, b in zip(ours, theirs, strict=True)]) > 0.9


def case_of(model: Model) -> plain.Case:
    return plain.Case(Subject("demo", LLAMA, reference("f32"), "f32", 0.0), model, DEMO, POLICY)


def rows_in_blocks(model: Model, tokens: list[int]) -> list[np.ndarray]:
    """The rows of single tokens, computed in rounds of up to eight."""
    cache, rows = model.new_cache(POLICY), []
    while cache.length < len(tokens):
        n = min(8, POLICY.room(cache.length), len(tokens) - cache.length)
        step = cache.begin(n)
        rows += [row.numpy() for row in step.verify(tokens[cache.length : cache.length + n])]
        step.commit(n)
    cache.close()
    return rows


def log_softmax(row: np.ndarray) -> np.ndarray:
    row = row.astype(np.float64) - row.max()
    return row - np.log(np.exp(row).sum())

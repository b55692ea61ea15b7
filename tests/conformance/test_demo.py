"""The model that ships with the package, with a real early exit: English text, past evictions and a re-anchoring."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.decode.arms import Arm, Fixed
from edgeinfer.decode.drafters.early_exit import EarlyExit
from edgeinfer.decode.loop import Decoder
from edgeinfer.protocols import Model
from edgeinfer.types import Prompt, Sampling
from edgeinfer.window import WindowPolicy
from tests.conformance import checks
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


@pytest.mark.parametrize("how", [Sampling(), Sampling(temperature=0.7, top_p=0.95, seed=2)], ids=["greedy", "sampled"])
def test_lossless_with_its_own_exit(demo: Model, how: Sampling) -> None:
    prompt, n = prompt_for(demo), 50
    case = checks.Case(Subject("demo", LLAMA, reference("f32"), "f32", 0.0), demo, DEMO, POLICY)
    decoder = Decoder(demo, POLICY, controller=Fixed(Arm("early-exit", 3)), drafters={"early-exit": EarlyExit()})
    assert checks.answer(decoder, prompt, how, n) == checks.plain_answer(case, prompt, how, n)
    stats = decoder.stats
    assert stats.reanchored == 1 and stats.evicted >= 3 * POLICY.block
    assert 0.2 < stats.accepted / stats.drafted < 1
    decoder.close()


def test_it_answers(demo: Model) -> None:
    """By eye: the words of the answer that the model's authors know it by."""
    text = "<|im_start|>user\nHello, who are you?<|im_end|>\n<|im_start|>assistant\n"
    decoder = Decoder(demo, POLICY)
    told = decoder.stream(
        Prompt(tuple(demo.tokenizer.encode(text, special=True))),
        Sampling(),
        max_tokens=40,
        stop_tokens=demo.tokenizer.stop_tokens,
    )
    answer = b"".join(demo.tokenizer.piece(token) for token in told).decode()
    assert answer.startswith("I'm a small language model with about 46 million parameters.")
    assert decoder.stats.finish == "stop"
    decoder.close()


@pytest.mark.skipif(bool(missing_gguf()), reason="llama.cpp is not here")
def test_llama_cpp_agrees_with_the_reference(demo: Model) -> None:
    """llama.cpp rounds activations to 8 bits for Q4_0 weights, so distributions are close, not equal."""
    tokens = list(prompt_for(demo).tokens)
    tokens += checks.answer(Decoder(demo, POLICY), Prompt(tuple(tokens)), Sampling(), 70 - len(tokens))
    ours = [log_softmax(row) for row in checks.plain_rows(case_of(demo), tokens)]
    theirs_model = gguf("f16")(DEMO)
    theirs = [log_softmax(row) for row in checks.plain_rows(case_of(theirs_model), tokens)]
    theirs_model.close()
    divergence = [float((np.exp(a) * (a - b)).sum()) for a, b in zip(ours, theirs, strict=True)]
    assert len(POLICY.evicted(len(tokens))) >= 2 * POLICY.block  # past the wrap
    assert np.mean(divergence) < 0.01 and max(divergence) < 0.1  # nats
    assert np.mean([a.argmax() == b.argmax() for a, b in zip(ours, theirs, strict=True)]) > 0.9


def case_of(model: Model) -> checks.Case:
    return checks.Case(Subject("demo", LLAMA, reference("f32"), "f32", 0.0), model, DEMO, POLICY)


def log_softmax(row: np.ndarray) -> np.ndarray:
    row = row.astype(np.float64) - row.max()
    return row - np.log(np.exp(row).sum())

"""gemma-3-270m: sliding layers, a SentencePiece vocabulary of 262,144 tokens, and no chat template. Optional."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp")
import edgeinfer
from edgeinfer.chat.encoding import encode_continuation
from edgeinfer.decode import drafting
from edgeinfer.decode.policy.costs import RowCosts
from edgeinfer.formats import GgufHeader, check_artifact, facts_from_gguf
from edgeinfer.runner.model import LoadedModel
from edgeinfer.runner.opening import NO_TEMPLATE
from edgeinfer.shape import LayerKv
from edgeinfer.types import GREEDY

PROSE = "The lighthouse keeper wrote down what the sea had brought that day, and what it had taken away again. "


COSTS = RowCosts({1: 0.02, 4: 0.04, 8: 0.06, 16: 0.1})  # row times are not measured, because tests share the machine


@pytest.fixture(scope="module")
def model(gemma3: Path) -> Iterator[LoadedModel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drafting, "_row_costs", lambda *_: COSTS)
        with edgeinfer.load(edgeinfer.Request(model=str(gemma3), context=2048, force=True)) as loaded:
            yield loaded


def test_the_facts_of_gemma_3_270m(gemma3: Path) -> None:
    header = check_artifact(gemma3)
    assert isinstance(header, GgufHeader)
    facts = facts_from_gguf(header)
    assert (facts.tier, facts.license, facts.has_template) == ("Q4_K_M", "gemma", False)
    assert facts.shape.n_vocab == 262_144
    assert facts.shape.kv == (LayerKv(15, 1, 256, window=512), LayerKv(3, 1, 256))
    assert facts.head == ("Q8_0", 178_257_920), "the name says Q4_K_M, the rows of 640 values do not fit its blocks"


def test_its_chat_format_is_a_guess_which_is_noted(model: LoadedModel) -> None:
    """The vocabulary has no `<|im_end|>`, so that text ends an answer."""
    assert NO_TEMPLATE in model.notes
    answer = model.chat(sampling=GREEDY, max_tokens=200).ask("What is the capital of France?")
    assert "<|im_" not in answer.text


def test_a_text_is_continued_after_one_bos(model: LoadedModel) -> None:
    tokenizer = model.tokenizer
    (bos,) = tokenizer.encode(tokenizer.bos_text, special=True)
    n_text = len(tokenizer.encode(PROSE, special=False))
    assert model.generate(PROSE, max_tokens=1).stats.prompt == n_text + 1
    assert bos not in tokenizer.encode(PROSE, special=False)


@pytest.mark.parametrize("tail", [" keeper", "keeper", "\n\n### Instruction:\n", "ß", "日本", "  two"])
def test_a_tail_is_tokenized_as_the_whole_text_would_be(model: LoadedModel, tail: str) -> None:
    tokenizer, before = model.tokenizer, "The lighthouse."
    whole = tokenizer.encode(before + tail, special=True)
    assert (
        tokenizer.encode(before, special=True) + encode_continuation(tokenizer, tail, after=before, special=True)
        == whole
    )


def test_an_answer_does_not_depend_on_what_the_cache_held(model: LoadedModel) -> None:
    alone = model.generate(PROSE, max_tokens=24, sampling=GREEDY).tokens
    assert model.generate(PROSE, max_tokens=24, sampling=GREEDY).tokens == alone, "all of the prompt was in the cache"


def test_text_that_repeats_is_drafted(model: LoadedModel) -> None:
    """Drafting is allowed although its batches round differently from single rows; the plan says so."""
    assert model.plan.speculation.max_rows == 16
    assert "same tokens up to rounding" in model.plan.speculation.note
    answer = model.generate(PROSE * 6, max_tokens=60, sampling=GREEDY)
    assert answer.stats.arms["lookup"].accepted > 20

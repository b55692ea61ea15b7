"""A taught draft on llama.cpp under the scheduler: an answer is drafted while it is alone, and has the same tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("llama_cpp")

from edgeinfer.backends.gguf import llama
from edgeinfer.backends.gguf.cache import GgufCache
from edgeinfer.backends.gguf.model import EngineSettings, GgufModel
from edgeinfer.decode.drafters.early_exit import EarlyExit
from edgeinfer.decode.loop import Decoder
from edgeinfer.decode.policy.arms import Arm, Fixed
from edgeinfer.formats.draft_file import read_draft_for
from edgeinfer.formats.gguf_header import read_header
from edgeinfer.formats.shape import shape_from_gguf
from edgeinfer.prefill import prefill
from edgeinfer.serve.engine.job import Ended, Event, Job, Task
from edgeinfer.serve.engine.scheduler import Scheduler
from edgeinfer.serve.engine.slots import Slot
from edgeinfer.serve.engine.text import AnswerText
from edgeinfer.serve.store.memory import MemoryBlocks
from edgeinfer.serve.store.prefixes import PrefixStore
from edgeinfer.types import GREEDY, Prompt, Sampling
from tests.serve.test_store_scheduler import NO_STOP, POLICY, SEEDED, tokens_of
from tests.tiny_draft import draft_beside, write_tiny_draft
from tests.tiny_gguf import Tiny, write_tiny

if TYPE_CHECKING:
    from edgeinfer.types import Logits

HOW = pytest.mark.parametrize("how", [GREEDY, SEEDED], ids=["greedy", "seeded"])
N_TOKENS = 50  # past evictions


@pytest.fixture(scope="module", params=["feature", "exit"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GgufModel]:
    path = write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf", Tiny(tier="Q8_0"))
    taps, exit_layer = ((2, 4), 0) if request.param == "feature" else ((), 2)
    write_tiny_draft(draft_beside(path), path, taps, exit_layer=exit_layer)
    header = read_header(path)
    model = GgufModel(llama.load(path), header, EngineSettings(1, "q8_0/f16"), n_caches=4, policy=POLICY)
    model.draft_by_file(read_draft_for(draft_beside(path), shape_from_gguf(header)), path)
    assert (model.drafts_with, model.note) == (request.param, "")
    assert model.exact_rows
    yield model
    model.close()


class Served:
    """A scheduler of four conversations, driven by the test. Alone, each answer drafts three tokens a round."""

    def __init__(self, model: GgufModel) -> None:
        self.model = model
        self.store = PrefixStore("a test", POLICY, MemoryBlocks(1 << 24), None, lambda line: None)
        self.decoders = [
            Decoder(model, POLICY, controller=Fixed(Arm("taught", 3)), drafters={"taught": EarlyExit("taught")})
            for _ in range(4)
        ]
        self.scheduler = Scheduler(model, [Slot(decoder) for decoder in self.decoders], prefixes=self.store)

    def submit(self, prompt: Sequence[int], n: int, how: Sampling) -> Answer:
        answer = Answer(self.model, prompt, n, how)
        self.scheduler.submit([answer.job])
        return answer

    def until_done(self, *answers: Answer) -> None:
        for _ in range(1000):
            if all(answer.events and isinstance(answer.events[-1], Ended) for answer in answers):
                return
            self.scheduler.step()
        raise AssertionError([answer.events[-1:] for answer in answers])

    @property
    def n_drafted(self) -> int:
        """By the answers that run, and the newest that have ended."""
        return sum(decoder.stats.drafted for decoder in self.decoders)

    def close(self) -> None:
        for decoder in self.decoders:
            decoder.close()


class Answer:
    def __init__(self, model: GgufModel, prompt: Sequence[int], n: int, how: Sampling) -> None:
        self.events: list[Event] = []
        task = Task(Prompt(tuple(prompt), n_system=4), how, n, NO_STOP)
        self.job = Job(task, AnswerText(model.tokenizer), self.events.append)

    @property
    def tokens(self) -> list[int]:
        return list(self.job.text.tokens)

    @property
    def drafted(self) -> int:
        [ended] = [event for event in self.events if isinstance(event, Ended)]
        return ended.stats.drafted


def plain(model: GgufModel, prompt: Sequence[int], how: Sampling) -> list[int]:
    decoder = Decoder(model, POLICY)
    answer = list(decoder.stream(Prompt(tuple(prompt), n_system=4), how, max_tokens=N_TOKENS, stop_tokens=NO_STOP))
    decoder.close()
    return answer


@HOW
def test_neighbors_that_come_and_go_leave_the_tokens_of_a_drafted_answer(model: GgufModel, how: Sampling) -> None:
    prompts = [tokens_of(30 + 5 * seed, seed) for seed in (1, 2, 3)]
    expected = [plain(model, prompt, how) for prompt in prompts]
    served = Served(model)
    first = served.submit(prompts[0], N_TOKENS, how)
    while len(first.tokens) < 12:
        served.scheduler.step()
    alone = served.n_drafted
    second = served.submit(prompts[1], 12, how)
    served.until_done(second)
    assert 0 < alone == served.n_drafted, "beside others no token is drafted"
    third = served.submit(prompts[2], N_TOKENS, how)
    served.until_done(first, third)
    assert third.drafted > 0, "alone again, the last one drafts"
    assert [first.tokens, second.tokens, third.tokens] == [expected[0], expected[1][:12], expected[2]]
    served.close()


@HOW
def test_a_conversation_from_the_prefix_cache_drafts_with_what_follows(model: GgufModel, how: Sampling) -> None:
    shared = tokens_of(40, 4)
    prompts = [(*shared, *tokens_of(n, seed)) for seed, n in ((5, 4), (6, 9), (7, 15))]
    expected = [plain(model, prompt, how) for prompt in prompts]
    served = Served(model)
    answers = []
    for prompt in prompts:
        answers.append(served.submit(prompt, N_TOKENS, how))
        served.until_done(answers[-1])
    assert served.store.figures.restored_tokens >= 2 * 32
    assert [answer.tokens for answer in answers] == expected
    assert all(answer.drafted > 0 for answer in answers)
    served.close()


def test_what_a_restored_conversation_drafts_depends_on_what_follows_alone(model: GgufModel) -> None:
    """Its draft sees no key of the conversation that had its stream before."""
    prefix, after, other = tokens_of(32, 8), tokens_of(12, 9), tokens_of(60, 10)
    donor = model.new_cache(POLICY)
    prefill(donor, prefix)
    blocks = [block for block in donor.snapshot([range(32)]) if block is not None]
    donor.close()
    rows = []
    for held in ((), other):
        cache = model.new_cache(POLICY)
        if held:
            prefill(cache, held)
            drafted(cache)
            cache.rewind(0)
        cache.restore(blocks)
        prefill(cache, after)
        rows.append(drafted(cache))
        cache.close()
    assert np.isfinite(rows[0]).any()
    np.testing.assert_array_equal(rows[0], rows[1])


def drafted(cache: GgufCache) -> Logits:
    """The row of the second draft of a round."""
    step = cache.begin(2)
    rows = [step.draft(token) for token in (7, 8)]
    row = rows[1].numpy().copy()
    step.rollback()
    return row

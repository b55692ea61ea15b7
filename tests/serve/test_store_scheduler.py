"""The prefix cache under the scheduler: the same tokens as without it, with fewer to run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.backends.reference import load_gguf
from edgeinfer.backends.reference.model import ReferenceModel
from edgeinfer.decode.loop import Decoder
from edgeinfer.serve.engine.job import Event, Job, Task
from edgeinfer.serve.engine.scheduler import Scheduler
from edgeinfer.serve.engine.slots import Slot
from edgeinfer.serve.engine.text import AnswerText
from edgeinfer.serve.store.disk import DiskBlocks
from edgeinfer.serve.store.memory import MemoryBlocks
from edgeinfer.serve.store.prefixes import PrefixStore
from edgeinfer.types import GREEDY, Prompt, Sampling
from edgeinfer.window import WindowPolicy
from tests.tiny_gguf import Tiny, write_tiny

POLICY = WindowPolicy(window=64, sink=8, block=16, limit=110)
SEEDED = Sampling(temperature=0.9, top_k=50, seed=5)
NO_STOP: frozenset[int] = frozenset()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ReferenceModel:
    return load_gguf(write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf", Tiny(tier="F32")), exit_layer=None)


def tokens_of(n: int, seed: int) -> tuple[int, ...]:
    return tuple(int(token) for token in np.random.default_rng(seed).integers(3, 259, n))


class Served:
    """A scheduler driven by the test. `run` returns the tokens of each answer."""

    def __init__(self, model: ReferenceModel, n_slots: int, disk: DiskBlocks | None = None) -> None:
        self.said: list[str] = []
        self.model = model
        self.store = PrefixStore("a test", POLICY, MemoryBlocks(1 << 24), disk, self.said.append)
        slots = [Slot(Decoder(model, POLICY)) for _ in range(n_slots)]
        self.scheduler = Scheduler(model, slots, prefixes=self.store)

    def run(self, *prompts: Sequence[int], n: int = 20, how: Sampling = GREEDY) -> list[list[int]]:
        jobs = [self.job(prompt, n, how) for prompt in prompts]
        self.scheduler.submit(jobs)
        while not self.scheduler.idle:
            self.scheduler.step()
        return [list(job.text.tokens) for job in jobs]

    def job(self, prompt: Sequence[int], n: int, how: Sampling) -> Job:
        heard: list[Event] = []
        task = Task(Prompt(tuple(prompt), n_system=4), how, n, NO_STOP)
        return Job(task, AnswerText(self.model.tokenizer), heard.append)


def alone(model: ReferenceModel, prompt: Sequence[int], n: int = 20, how: Sampling = GREEDY) -> list[int]:
    decoder = Decoder(model, POLICY)
    answer = list(decoder.stream(Prompt(tuple(prompt), n_system=4), how, max_tokens=n, stop_tokens=NO_STOP))
    decoder.close()
    return answer


@pytest.mark.parametrize("how", [GREEDY, SEEDED], ids=["greedy", "seeded"])
def test_an_answer_after_a_hit_has_the_same_tokens(model: ReferenceModel, how: Sampling) -> None:
    served, system = Served(model, 2), tokens_of(40, 1)
    prompts = [(*system, *tokens_of(9, seed)) for seed in range(2, 7)]
    for prompt in prompts:
        assert served.run(prompt, how=how) == [alone(model, prompt, how=how)]
    assert served.store.figures.restored_tokens >= 3 * 32
    together = served.run(*prompts, how=how)
    assert together == [alone(model, prompt, how=how) for prompt in prompts]


def test_an_answer_from_the_disk_of_another_server_has_the_same_tokens(model: ReferenceModel, tmp_path: Path) -> None:
    prompt = tokens_of(60, 1)
    for restored in (0, 48):
        served = Served(model, 1, DiskBlocks(tmp_path, "a test", 1 << 24, print))
        assert served.run(prompt) == [alone(model, prompt)]
        assert served.store.figures.restored_tokens == restored
        served.store.close()


def test_a_second_turn_finds_the_first_answer_too(model: ReferenceModel) -> None:
    served, prompt = Served(model, 1), tokens_of(30, 1)
    (answer,) = served.run(prompt, n=25)
    served.run(tokens_of(30, 2))  # takes the slot
    second = (*prompt, *answer, *tokens_of(5, 3))
    assert served.run(second) == [alone(model, second)]
    assert served.store.figures.restored_tokens == 48


def test_a_conversation_that_was_re_anchored_leaves_no_wrong_block(model: ReferenceModel) -> None:
    """Past the limit, its keys are at other positions than its tokens."""
    served, prompt = Served(model, 1), tokens_of(40, 1)
    (answer,) = served.run(prompt, n=100)
    assert answer == alone(model, prompt, 100)
    served.run(tokens_of(30, 2))
    again = (*prompt, *answer[:22])
    assert served.run(again) == [alone(model, again)]
    assert served.store.figures.restored_tokens > 0


def test_a_cache_with_an_evicted_beginning_is_filled_from_the_store(model: ReferenceModel) -> None:
    """The slot still holds the tokens, but no longer the keys."""
    served, prompt = Served(model, 1), tokens_of(62, 1)
    served.run(prompt, n=40)
    again = (*prompt[:60], *tokens_of(5, 9))
    assert served.run(again) == [alone(model, again)]
    assert served.store.figures.restored_tokens == 48

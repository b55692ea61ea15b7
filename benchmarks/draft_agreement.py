"""How often a taught draft is right on this engine, by depth and temperature, on prompts that it was not taught on.

The model answers plainly. Before each token the draft guesses the next ones, with the answer's own noise. Depth d
counts where the d - 1 guesses before it were right, as a decoder meets it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

from edgeinfer.bench.opened import add_model_arguments, opened, request_of
from edgeinfer.bench.speculation.measure import first_of_each, read_prompts
from edgeinfer.chat.prompt import PromptBuilder
from edgeinfer.chat.template import CHATML, Renderer, Template
from edgeinfer.decode.keyed import KeyedRound
from edgeinfer.decode.sampler import Sampler
from edgeinfer.errors import UsageError
from edgeinfer.prefill import prefill
from edgeinfer.protocols import Cache
from edgeinfer.types import Prompt, Sampling

DEPTHS: Final = 3
MAX_TOKENS: Final = 96
TEMPERATURES: Final = (0.0, 0.7, 1.0)

Counts = list[list[int]]
"""By depth: drafts, and right ones."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--draft", type=Path, metavar="FILE", help="default: the one beside the model")
    parser.add_argument("--per-kind", type=int, default=2, metavar="N", help="prompts of each kind (2)")


def run(args: argparse.Namespace) -> int:
    """Raises UsageError for a model without a taught draft."""
    request = replace(request_of(args), speculation="auto", draft_file=str(args.draft or ""), context=1024, sink=0)
    tasks = list(first_of_each(read_prompts(None), args.per_kind))
    with opened(request) as subject, closing(Renderer()) as renderer:
        taught = subject.plan.taught
        if taught is None:
            raise UsageError(f"{subject.plan.model.name} has no taught draft here", hint="--draft FILE")
        tokenizer = subject.model.tokenizer
        template = Template(renderer, tokenizer.chat_template or CHATML, bos=tokenizer.bos_text, eos=tokenizer.eos_text)
        builder = PromptBuilder(template, tokenizer)
        prompts = [builder.build(task.messages) for task in tasks]
        say(f"{subject.plan.model.name} {subject.plan.artifact.tier}, {taught.kind} draft, {len(tasks)} answers")
        say("| temperature | " + " | ".join(f"depth {depth + 1}" for depth in range(DEPTHS)) + " |")
        say("|---|" + "---|" * DEPTHS)
        for temperature in TEMPERATURES:
            counts: Counts = [[0, 0] for _ in range(DEPTHS)]
            cache = subject.model.new_cache(subject.plan.window)
            for task, prompt in zip(tasks, prompts, strict=True):
                sampler = Sampler(Sampling(temperature=temperature, seed=task.index))
                for guesses, answer in guessed(cache, prompt, sampler, tokenizer.stop_tokens):
                    count(guesses, answer, counts)
            cache.close()
            cells = (f"{right / n if n else 0:.3f} of {n}" for n, right in counts)
            say(f"| {temperature:g} | " + " | ".join(cells) + " |")
    return 0


def guessed(
    cache: Cache, prompt: Prompt, sampler: Sampler, stops: frozenset[int]
) -> Iterator[tuple[list[int], list[int]]]:
    """The guesses before each token of the answer, and the tokens that came."""
    cache.rewind(0)
    tokens = list(prompt.tokens)
    answer = [sampler.pick(prefill(cache, tokens).numpy(), 0, tokens)]
    guesses: list[list[int]] = []
    while answer[-1] not in stops and len(answer) < MAX_TOKENS:
        context = [*tokens, *answer]
        step = cache.begin(DEPTHS + 1)
        keyed = KeyedRound(step, sampler, len(answer), context)
        chain = [answer[-1]]
        for _ in range(DEPTHS):
            chain.append(keyed.draft(chain[-1]).argmax())
        guesses.append(chain[1:])
        [row] = step.verify([answer[-1]])
        token = sampler.pick(row.numpy(), len(answer), context)
        step.commit(1)
        answer.append(token)
    for at, chain in enumerate(guesses, start=1):
        yield chain, answer[at : at + DEPTHS]


def count(guesses: Sequence[int], came: Sequence[int], counts: Counts) -> None:
    for cell, guess, token in zip(counts, guesses, came, strict=False):
        cell[0] += 1
        cell[1] += guess == token
        if guess != token:
            return


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()

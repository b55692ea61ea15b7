"""Counts acceptance rates of prompt lookup, to compare with the priors at the top of decode/drafters/hit_rates.py.

The prompts are written here or cut from a held-out text. None of them is a prompt of `edgeinfer bench speculation`,
which judges the tables. The model answers greedily, without drafts.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from edgeinfer.bench.opened import add_model_arguments, opened, request_of
from edgeinfer.chat.prompt import PromptBuilder
from edgeinfer.chat.template import CHATML, Renderer, Template
from edgeinfer.decode.drafters.hit_rates import MATCH_LENGTHS, length_class
from edgeinfer.decode.drafters.text_index import TextIndex
from edgeinfer.decode.loop import Decoder
from edgeinfer.runner.opening import read_template
from edgeinfer.types import GREEDY, Message

N_PARAGRAPHS: Final = 120  # of the text: half are copied or summed up, half are continued
MIN_CHARS, MAX_CHARS = 150, 450  # of a paragraph
MAX_TOKENS: Final = 128
COPYING: Final = ("Write this text again, word for word:", "Give a short summary of this text:")
CONTINUING: Final = "Write what comes next:"
ABOUT: Final = ("What do you know about {}?", "Write a short story about {}.")
WRITTEN: Final = (
    "Hello there. What shall we talk about?", "I had a long day at work.", "Do you like music?",
    "My sister is coming to visit me tomorrow.", "I cannot decide what to cook tonight.", "Tell me something nice.",
    "I just moved to a new town and know no one.", "It has been raining all week.", "What do you think of winter?",
    "I want to learn to swim.", "Write a story about a lighthouse keeper and a whale.",
    "Write a story about a boy who finds a key.", "Tell me about a girl who lives on the moon.",
    "Write about two brothers who build a boat.", "Write a short tale about a baker and a king.",
    "Tell a story in which a horse learns to read.", "Write about a village that lost its river.",
    "Write a story about a clock that runs backwards.", "Tell me a tale of a goat and a tailor.",
    "Write about an old man and his garden.", "Why is the sky blue?", "How do birds find their way?",
    "What is a comet?", "How is paper made?", "What does the heart do?", "Who was Marie Curie?",
    "Why do leaves turn red in autumn?", "What is the largest desert?", "How does a bicycle stay upright?",
    "What are tides?",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--text", type=Path, required=True, metavar="FILE", help="held-out prose, a paragraph a line")


def run(args: argparse.Namespace) -> int:
    with opened(request_of(args)) as subject, closing(Renderer()) as renderer:
        tokenizer = subject.model.tokenizer
        source = read_template(args.template) if args.template else tokenizer.chat_template or CHATML
        template = Template(renderer, source, bos=tokenizer.bos_text, eos=tokenizer.eos_text)
        for name, questions in prompts(args.text).items():
            counts: Counts = defaultdict(lambda: [0, 0])
            for question in questions:
                prompt = PromptBuilder(template, tokenizer).build([Message("user", question)])
                decoder = Decoder(subject.model, subject.plan.window)
                answer = decoder.stream(prompt, GREEDY, max_tokens=MAX_TOKENS, stop_tokens=tokenizer.stop_tokens)
                count(prompt.tokens, list(answer), counts)
                decoder.close()
            sys.stdout.write(f"{name}: {len(questions)} answers\n" + "\n".join(table(counts)) + "\n")
            sys.stdout.flush()
    return 0


def prompts(text: Path) -> dict[str, list[str]]:
    lines = [line.strip() for line in text.read_text(encoding="utf-8").splitlines()]
    titles = [line.strip("= ") for line in lines if line.startswith("= ") and not line.startswith("= =")]
    paragraphs = list(usable_paragraphs(lines))
    chosen = paragraphs[:: max(1, len(paragraphs) // N_PARAGRAPHS)][:N_PARAGRAPHS]
    about = [question.format(title) for title in titles for question in ABOUT]
    copied = [f"{COPYING[at // 2 % 2]}\n\n{one}" for at, one in enumerate(chosen) if at % 2 == 0]
    return {  # asked to continue a paragraph, the demo mostly repeats it
        "copied": [*copied, *(f"{CONTINUING}\n\n{one}" for one in chosen[1::2])],
        "new": [*WRITTEN, *about],
    }


def usable_paragraphs(lines: Sequence[str]) -> Iterator[str]:
    """The first whole sentences of each paragraph, up to a word that the text leaves out."""
    for line in lines:
        start = line.partition("<unk>")[0][:MAX_CHARS]
        start = start[: start.rfind(". ") + 1]
        if len(start) >= MIN_CHARS and not line.startswith("="):
            yield start


Counts = defaultdict[tuple[int, int], list[int]]
"""(row of the table, fork): matches, and those that came true."""


def count(prompt: Sequence[int], answer: Sequence[int], counts: Counts) -> None:
    index = TextIndex()
    for token in prompt:
        index.add(token)
    for token in answer:
        match = index.longest_match()
        if match is not None:
            cell = counts[length_class(match.length), index.fork_at(match)]
            cell[0] += 1
            cell[1] += index.tokens[match.source] == token
        index.add(token)


def table(counts: Counts) -> list[str]:
    """A line for each class of match length: rate and number of matches, by fork."""
    return [
        f"  {length:2d} or more: "
        + "  ".join(f"{hits / n if n else 0:.3f} of {n:4d}" for n, hits in (counts[row, fork] for fork in range(3)))
        for row, length in enumerate(MATCH_LENGTHS)
    ]

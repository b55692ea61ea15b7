"""Fits the priors of prompt lookup, the tables at the top of decode/drafters/hit_rates.py.

The prompts are written here or cut from a held-out text. None of them is a prompt of `edgeinfer bench speculation`,
which judges the tables. The models answer greedily, without drafts; two_states.py finds the two states in what came
true. Each model's answers are also judged by states that were fitted to the other models.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from benchmarks.two_states import Seen, TwoStates, fit, log_loss
from edgeinfer.bench.opened import add_format_arguments, opened
from edgeinfer.chat.prompt import PromptBuilder
from edgeinfer.chat.template import CHATML, Renderer, Template
from edgeinfer.decode.drafters.hit_rates import COPYING_RATES, MATCH_LENGTHS, NEW_TEXT_RATES, length_class
from edgeinfer.decode.drafters.text_index import TextIndex
from edgeinfer.decode.loop import Decoder
from edgeinfer.plan.types import Request
from edgeinfer.runner.opening import read_template
from edgeinfer.types import GREEDY, KvType, Message

N_PARAGRAPHS: Final = 120  # of the text: half are copied or summed up, half are continued
MIN_CHARS, MAX_CHARS = 150, 450  # of a paragraph
MAX_TOKENS: Final = 128
START: Final = TwoStates([list(row) for row in NEW_TEXT_RATES], [list(row) for row in COPYING_RATES])
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
    parser.add_argument("--model", action="append", required=True, metavar="NAME|PATH", help="repeatable")
    add_format_arguments(parser)
    parser.add_argument("--text", type=Path, required=True, metavar="FILE", help="held-out prose, a paragraph a line")


def run(args: argparse.Namespace) -> int:
    questions = prompts(args.text)
    seen = {name: list(answers(name, args.template, questions, args.kv_type)) for name in args.model}
    every = [answer for model in seen.values() for answer in model]
    say("\n".join(table(fit(every, START))))
    for name, judged in seen.items() if len(seen) > 1 else ():
        others = [answer for other, model in seen.items() if other != name for answer in model]
        here, elsewhere = log_loss(judged, START), log_loss(judged, fit(others, START))
        say(f"log loss of the matches of {name}: {here:.4f} with the tables in use, {elsewhere:.4f} fitted without it")
    return 0


def answers(
    name: str, template_name: str, questions: Sequence[str], kv_type: KvType | None = None
) -> Iterator[list[Seen]]:
    """The matches of each answer of one model."""
    with (
        opened(Request(model=name, kv_type=kv_type, speculation="off", force=True)) as subject,
        closing(Renderer()) as renderer,
    ):
        tokenizer = subject.model.tokenizer
        source = read_template(template_name) if template_name else tokenizer.chat_template or CHATML
        template = Template(renderer, source, bos=tokenizer.bos_text, eos=tokenizer.eos_text)
        for question in questions:
            prompt = PromptBuilder(template, tokenizer).build([Message("user", question)])
            decoder = Decoder(subject.model, subject.plan.window)
            answer = decoder.stream(prompt, GREEDY, max_tokens=MAX_TOKENS, stop_tokens=tokenizer.stop_tokens)
            yield matches(prompt.tokens, list(answer))
            decoder.close()


def prompts(text: Path) -> list[str]:
    lines = [line.strip() for line in text.read_text(encoding="utf-8").splitlines()]
    titles = [line.strip("= ") for line in lines if line.startswith("= ") and not line.startswith("= =")]
    paragraphs = list(usable_paragraphs(lines))
    chosen = paragraphs[:: max(1, len(paragraphs) // N_PARAGRAPHS)][:N_PARAGRAPHS]
    tasks = (COPYING[0], CONTINUING, COPYING[1], CONTINUING)
    about_paragraphs = [f"{tasks[at % len(tasks)]}\n\n{one}" for at, one in enumerate(chosen)]
    return [*about_paragraphs, *WRITTEN, *(question.format(title) for title in titles for question in ABOUT)]


def usable_paragraphs(lines: Sequence[str]) -> Iterator[str]:
    """The first whole sentences of each paragraph, up to a word that the text leaves out."""
    for line in lines:
        start = line.partition("<unk>")[0][:MAX_CHARS]
        start = start[: start.rfind(". ") + 1]
        if len(start) >= MIN_CHARS and not line.startswith("="):
            yield start


def matches(prompt: Sequence[int], answer: Sequence[int]) -> list[Seen]:
    index = TextIndex()
    for token in prompt:
        index.add(token)
    seen = []
    for token in answer:
        match = index.longest_match()
        if match is not None:
            seen.append(Seen(length_class(match.length), index.fork_at(match), index.tokens[match.source] == token))
        index.add(token)
    return seen


def table(states: TwoStates) -> Iterator[str]:
    """A line for each class of match length, with rates by fork."""
    yield "match length   copying                new text"
    for length, *rates in zip(MATCH_LENGTHS, states.copying, states.new_text, strict=True):
        yield f"{length:2d} or more     " + "   ".join(" ".join(f"{rate:.3f}" for rate in row) for row in rates)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()

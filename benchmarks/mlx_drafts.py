"""Taught drafts on MLX against the NumPy reference: the tokens of answers, and how many drafts are accepted.

Both run the same GGUF in float32 with rounds of three drafts. MLX runs on a Mac's GPU, elsewhere on the processor.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeinfer.bench.report import head, table
from edgeinfer.bench.speculation.measure import first_of_each, read_prompts
from edgeinfer.chat.prompt import PromptBuilder
from edgeinfer.chat.template import CHATML, Renderer, Template
from edgeinfer.decode.drafters.early_exit import EarlyExit
from edgeinfer.decode.loop import Decoder
from edgeinfer.decode.policy.arms import Arm, Fixed
from edgeinfer.device import detect
from edgeinfer.plan.facts import installed_version
from edgeinfer.protocols import Model
from edgeinfer.types import Message, Prompt, Sampling
from edgeinfer.window import WindowPolicy

DEPTH: Final = 3
POLICY: Final = WindowPolicy(window=1024, sink=128, block=128, limit=2048)
TEMPERATURES: Final = (0.0, 0.7)


@dataclass(frozen=True, slots=True)
class Drafted:
    """Answers of one model with one draft."""

    answers: list[list[int]]
    drafted: int
    accepted: int

    @property
    def acceptance(self) -> float:
        return self.accepted / self.drafted if self.drafted else 0.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, metavar="FILE.gguf", help="a llama or qwen3 model")
    parser.add_argument("--draft", type=Path, action="append", required=True, metavar="FILE", help="may be repeated")
    parser.add_argument("--temperature", type=float, action="append", metavar="T", help="may be repeated (0 and 0.7)")
    parser.add_argument("--per-kind", type=int, default=2, metavar="N", help="prompts of each kind (2)")
    parser.add_argument("--max-tokens", type=int, default=64, metavar="N", help="of each answer (64)")


def run(args: argparse.Namespace) -> int:
    tasks = list(first_of_each(read_prompts(None), args.per_kind))
    rows = []
    for draft in args.draft:
        reference, mlx = on_reference(args.model, draft), on_mlx(args.model, draft)
        prompts = list(prompts_of(reference, [task.messages for task in tasks]))
        for temperature in args.temperature or TEMPERATURES:
            plain = answer(mlx, prompts, temperature, args.max_tokens, depth=0)
            oracle, found = (answer(model, prompts, temperature, args.max_tokens) for model in (reference, mlx))
            rows.append(
                [
                    mlx.drafts_with,
                    f"{temperature:g}",
                    f"{equal(found, plain)} of {len(prompts)}",
                    f"{equal(found, oracle)} of {len(prompts)}",
                    f"{oracle.accepted} of {oracle.drafted} = {oracle.acceptance:.3f}",
                    f"{found.accepted} of {found.drafted} = {found.acceptance:.3f}",
                ]
            )
            sys.stderr.write(" | ".join(rows[-1]) + "\n")
        reference.close()
        mlx.close()
    titles = ["draft", "temperature", "as plain MLX", "as the reference", "accepted, reference", "accepted, MLX"]
    command = ["python", "-m", "benchmarks", "mlx_drafts", "--model", args.model.name]
    top = head("Taught drafts on MLX", command, detect(), {"mlx": installed_version("mlx")})
    sys.stdout.write(f"{top}\n{table(titles, rows)}")
    return 0


def on_reference(path: Path, draft: Path) -> Model:
    from edgeinfer.backends.reference import load_gguf

    return load_gguf(path, draft=draft)


def on_mlx(path: Path, draft: Path) -> Model:
    import mlx.core as mx

    from edgeinfer.backends.mlx.model import MlxModel
    from edgeinfer.backends.mlx.weights import load_gguf
    from edgeinfer.formats.artifact import check_artifact
    from edgeinfer.formats.draft_file import read_draft_for
    from edgeinfer.formats.gguf_header import GgufHeader
    from edgeinfer.formats.gguf_tokenizer import GgufTokenizer
    from edgeinfer.formats.shape import shape_from_gguf

    header = check_artifact(path)
    assert isinstance(header, GgufHeader)
    module, _ = load_gguf(path, header, mx.float32)
    return MlxModel(module, GgufTokenizer(header), draft=read_draft_for(draft, shape_from_gguf(header)))


def prompts_of(model: Model, chats: Sequence[Sequence[Message]]) -> Iterator[Prompt]:
    tokenizer = model.tokenizer
    with closing(Renderer()) as renderer:
        template = Template(renderer, tokenizer.chat_template or CHATML, bos=tokenizer.bos_text, eos=tokenizer.eos_text)
        builder = PromptBuilder(template, tokenizer)
        yield from [builder.build(messages) for messages in chats]


def answer(
    model: Model, prompts: Sequence[Prompt], temperature: float, max_tokens: int, *, depth: int = DEPTH
) -> Drafted:
    name = model.drafts_with
    answers, drafted, accepted = [], 0, 0
    for index, prompt in enumerate(prompts):
        decoder = Decoder(model, POLICY, controller=Fixed(Arm(name, depth)), drafters={name: EarlyExit(name)})
        how, stops = Sampling(temperature=temperature, seed=index), model.tokenizer.stop_tokens
        answers.append(list(decoder.stream(prompt, how, max_tokens=max_tokens, stop_tokens=stops)))
        drafted, accepted = drafted + decoder.stats.drafted, accepted + decoder.stats.accepted
        decoder.close()
    return Drafted(answers, drafted, accepted)


def equal(one: Drafted, other: Drafted) -> int:
    return sum(mine == theirs for mine, theirs in zip(one.answers, other.answers, strict=True))

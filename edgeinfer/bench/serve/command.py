"""The arguments of the measurement, and how its parts are combined."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import edgeinfer
from edgeinfer.backends.gguf.facts import FACTS as LLAMA_CPP
from edgeinfer.bench.opened import add_format_arguments, opened
from edgeinfer.bench.report import check_outputs, head, print_report
from edgeinfer.bench.serve.ceiling import ceilings
from edgeinfer.bench.serve.measure import Sizes, Subjects, measure
from edgeinfer.bench.serve.plot import plot
from edgeinfer.bench.serve.report import text_of_report, verdicts
from edgeinfer.bench.serve.servers import llama_server, ours
from edgeinfer.bench.serve.workloads import text_of
from edgeinfer.errors import UsageError
from edgeinfer.named_files import write_text
from edgeinfer.plan.types import Request
from edgeinfer.protocols import Tokenizer

SINK: Final = 512
OF_SINK: Final = 0.7  # of it, the repeated system prompt: the template writes a little, too


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="demo", metavar="NAME|PATH", help="default: demo")
    add_format_arguments(parser)
    parser.add_argument("--against", type=Path, metavar="FILE", help="llama.cpp's `llama-server`, to compare with")
    parser.add_argument("--clients", type=numbers, default=(1, 2, 4, 8), metavar="N,...", help="default: 1,2,4,8")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="interleaved runs of each (5)")
    parser.add_argument("--tokens", type=int, default=96, metavar="N", help="tokens of an answer (96)")
    parser.add_argument("--prompt-tokens", type=int, default=1500, metavar="N", help="of the long prompt (1500)")
    parser.add_argument("--context", type=int, default=2048, metavar="N", help="window of a conversation (2048)")
    parser.add_argument("--json", action="store_true", help="one object on stdout")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the report, and a plot beside it")


def numbers(text: str) -> tuple[int, ...]:
    return tuple(sorted({int(part) for part in text.split(",")}))


def run(args: argparse.Namespace) -> int:
    if args.runs < 1 or args.tokens < 2 or not args.clients or min(args.clients) < 1:
        raise UsageError("a measurement needs at least 1 run, 1 client and 2 tokens")
    if args.against is not None and not args.against.is_file():
        raise UsageError(f"there is no file {args.against}", hint="--against takes a llama-server that was built")
    check_outputs(plots=[args.out])
    request = Request(
        model=args.model,
        context=args.context,
        kv_type=args.kv_type,
        sink=SINK,
        force=True,
        conversations=max(args.clients),
        backend=LLAMA_CPP.name,
    )
    with opened(replace(request, speculation="off")) as subject:
        found_ceilings = ceilings(subject, args.clients)
        n_threads, versions = subject.model.n_threads, subject.versions
        words = words_per_token(subject.model.tokenizer)
        stops = tuple(sorted(subject.model.tokenizer.stop_tokens))
    request = replace(request, threads=n_threads)  # each side would measure on its own, and might choose another number
    plan = edgeinfer.choose(request, offline=True)
    single = edgeinfer.choose(replace(request, conversations=1), offline=True)
    sizes = Sizes(
        n_tokens=args.tokens,
        arriving_words=int(words * args.prompt_tokens),
        chat_words=int(words * args.prompt_tokens / 2),
        system_words=int(words * SINK * OF_SINK),
        n_slots=plan.n_conversations,
    )
    with ExitStack() as stack:
        sides = [stack.enter_context(ours(plan, stops, args.template))]
        if args.against is not None:
            sides.append(stack.enter_context(llama_server(args.against, plan, stops, args.template)))
        subjects = Subjects(
            sides,
            stack.enter_context(ours(single, stops, args.template)),
            stack.enter_context(edgeinfer.load(single, template=args.template)),
        )
        found = measure(subjects, args.clients, sizes, args.runs, lambda text: print(text, file=sys.stderr))  # noqa: T201
    claims = verdicts(found)
    title = f"The server: {plan.model.title} {plan.artifact.tier}, K/V {plan.kv_type}, {n_threads} threads"
    shown = [Path(part).name for part in sys.argv[3:]]  # leave out the folders of this machine
    text = head(title, ("edgeinfer", "bench", "serve", *shown), plan.device, versions)
    text += f"\nLoad average at the end: {os.getloadavg()[0]:.1f}; both servers and the clients share the cores.\n"
    text += "\n" + text_of_report(found, found_ceilings) + "\n## Claims\n\n"
    text += "".join(f"* {claim}: {'met' if met else '**not met**'}\n" for claim, met in claims.items())
    if args.out:
        plot(found, args.out)
        write_text(args.out, f"{text}\n![Latency against clients]({args.out.with_suffix('.png').name})\n")
    as_json = {**asdict(found), "ceilings": found_ceilings, "claims": claims}
    print_report(f"{json.dumps(as_json) if args.json else text}\n")
    return 0


def words_per_token(tokenizer: Tokenizer) -> float:
    n_words = 400
    return n_words / len(tokenizer.encode(text_of(n_words, 0), special=False))

"""`edgeinfer bench speed`: prefill and decode, beside a bare loop over the same C calls, interleaved in one process."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edgeinfer.backends.gguf.facts import FACTS as LLAMA_CPP
from edgeinfer.bench.bare import Timed, bare_run
from edgeinfer.bench.memory_use import pss_bytes
from edgeinfer.bench.opened import OpenedModel, add_model_arguments, format_words, opened, request_of, text_tokens
from edgeinfer.bench.report import check_outputs, head, print_report, table
from edgeinfer.decode.loop import Decoder
from edgeinfer.errors import UsageError
from edgeinfer.named_files import write_text
from edgeinfer.types import GREEDY, Prompt, Tokens

_TEXT = "The lighthouse keeper wrote down what the sea had brought that day, and what it had taken away again. "


@dataclass(frozen=True, slots=True)
class Spread:
    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Report:
    """Speeds are tokens per second; a ratio is this program's speed over the bare loop's, pair by pair."""

    model: str
    tier: str
    backend: str
    kv_type: str
    n_threads: int
    prompt_tokens: int
    new_tokens: int
    prefill: Spread
    decode: Spread
    first_token_s: Spread
    bare_prefill: Spread | None
    bare_decode: Spread | None
    prefill_ratio: Spread | None
    decode_ratio: Spread | None
    same_tokens: bool | None
    memory_bytes: int  # PSS after the first answer
    bytes_per_token: int  # weights that a token reads, and K and V in the middle of the answer
    roofline: float  # share of the memory bandwidth that decoding uses


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="interleaved runs of each (5)")
    parser.add_argument("--prompt-tokens", type=int, default=256, metavar="N", help="tokens of the prompt (256)")
    parser.add_argument("--tokens", type=int, default=128, metavar="N", help="tokens of the answer (128)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the report")


def run(args: argparse.Namespace) -> int:
    if min(args.runs, args.prompt_tokens, args.tokens - 1) < 1:
        raise UsageError("a speed needs at least 1 run, 1 prompt token and 2 new tokens")
    check_outputs(args.out)
    with opened(request_of(args)) as subject:
        if args.prompt_tokens + args.tokens > subject.plan.window.window:
            raise UsageError(
                f"prompt and answer must fit the window of {subject.plan.window.window} tokens",
                hint="lower --prompt-tokens or --tokens, or raise --context",
            )
        report = measure(subject, args.runs, args.prompt_tokens, args.tokens, template=args.template)
        text = markdown(report, subject, args)
    print_report((json.dumps(asdict(report)) if args.json else text) + "\n")
    if args.out:
        write_text(args.out, text)
    return 0


def measure(subject: OpenedModel, runs: int, n_prompt: int, n_tokens: int, *, template: str = "") -> Report:
    """Ours and the bare loop in turn; which comes first alternates."""
    prompt = _prompt(subject, n_prompt, template)
    _ours(subject, prompt, 2)  # the first decode touches the weights
    ours: list[tuple[Timed, float]] = []
    bare: list[Timed] = []
    memory = 0
    for index in range(runs):
        for which in ("ours", "bare") if index % 2 == 0 else ("bare", "ours"):
            if which == "ours":
                ours.append(_ours(subject, prompt, n_tokens))
                memory = memory or pss_bytes()
            elif subject.plan.facts == LLAMA_CPP:
                bare.append(_bare(subject, prompt, n_tokens))
    plan = subject.plan
    decode = [(n_tokens - 1) / one.decode_s for one, _ in ours]
    per_token = _bytes_per_token(subject, n_prompt + n_tokens // 2)
    return Report(
        model=plan.model.name,
        tier=plan.artifact.tier,
        backend=plan.backend,
        kv_type=plan.kv_type,
        n_threads=getattr(getattr(subject.model, "settings", None), "n_threads", plan.n_threads),
        prompt_tokens=n_prompt,
        new_tokens=n_tokens,
        prefill=_spread([n_prompt / one.prefill_s for one, _ in ours]),
        decode=_spread(decode),
        first_token_s=_spread([first for _, first in ours]),
        bare_prefill=_spread([n_prompt / one.prefill_s for one in bare]) if bare else None,
        bare_decode=_spread([(n_tokens - 1) / one.decode_s for one in bare]) if bare else None,
        prefill_ratio=_spread([b.prefill_s / o.prefill_s for (o, _), b in zip(ours, bare, strict=True)])
        if bare
        else None,
        decode_ratio=_spread([b.decode_s / o.decode_s for (o, _), b in zip(ours, bare, strict=True)]) if bare else None,
        same_tokens=all(b.tokens == o.tokens for (o, _), b in zip(ours, bare, strict=True)) if bare else None,
        memory_bytes=memory,
        bytes_per_token=per_token,
        roofline=statistics.median(decode) * per_token / plan.device.bandwidth_bytes_per_s,
    )


def _prompt(subject: OpenedModel, n: int, template: str) -> Tokens:
    tokenizer = subject.model.tokenizer
    n_once = len(tokenizer.encode(_TEXT, special=False))
    return text_tokens(tokenizer, _TEXT * (n // n_once + 1), template)[:n]


def _ours(subject: OpenedModel, prompt: Tokens, n_tokens: int) -> tuple[Timed, float]:
    """The answer, and the seconds to its first token, as a caller measures them."""
    decoder = Decoder(subject.model, subject.plan.window)
    try:
        answer = decoder.stream(Prompt(tuple(prompt)), GREEDY, max_tokens=n_tokens, stop_tokens=frozenset())
        started = time.perf_counter()
        tokens = [next(iter(answer))]
        first = time.perf_counter()
        tokens += answer
        return Timed(tuple(tokens), first - started, time.perf_counter() - first), first - started
    finally:
        decoder.close()


def _bare(subject: OpenedModel, prompt: Tokens, n_tokens: int) -> Timed:
    from edgeinfer.backends.gguf.model import GgufModel

    assert isinstance(subject.model, GgufModel)
    return bare_run(subject.model, subject.plan.window, prompt, n_tokens)


def _bytes_per_token(subject: OpenedModel, length: int) -> int:
    plan = subject.plan
    weights = plan.artifact.n_bytes * plan.model.shape.n_active_params // plan.model.shape.n_params
    return weights + plan.estimate.kv_bytes * min(length, plan.window.slots) // plan.window.slots


def _spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def markdown(report: Report, subject: OpenedModel, args: argparse.Namespace) -> str:
    command = ["edgeinfer", "bench", "speed", "--model", report.model, "--runs", str(args.runs), *format_words(args)]

    def row(name: str, spread: Spread | None, digits: int = 1, scale: float = 1.0) -> list[str]:
        values = [spread.median, spread.low, spread.high] if spread else []
        return [name, *(f"{value * scale:.{digits}f}" for value in values)] if values else [name, "-", "-", "-"]

    rows = [
        row("prefill, tokens/s", report.prefill),
        row("decode, tokens/s", report.decode),
        row("first token, ms", report.first_token_s, scale=1000),
        row("bare loop, prefill", report.bare_prefill),
        row("bare loop, decode", report.bare_decode),
        row("ours / bare, prefill", report.prefill_ratio, 3),
        row("ours / bare, decode", report.decode_ratio, 3),
    ]
    same = {True: "The tokens are the same.", False: "The tokens DIFFER.", None: ""}[report.same_tokens]
    return (
        head(f"Speed of {report.model} {report.tier}", command, subject.plan.device, subject.versions)
        + f"\n{report.prompt_tokens} prompt tokens, {report.new_tokens} new ones, greedy, K and V in {report.kv_type}, "
        f"{report.n_threads} threads; {args.runs} runs of this program and of a bare loop over the same C calls, in "
        f"turn in one process. Ratios are taken pair by pair. {same}\n\n"
        + table(["", "median", "lowest", "highest"], rows)
        + f"\nMemory (PSS) after the first answer: {report.memory_bytes / 1e6:.0f} MB. A token reads "
        f"{report.bytes_per_token / 1e6:.1f} MB: {report.roofline:.0%} of the memory roofline.\n"
    )

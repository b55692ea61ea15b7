"""The results as Markdown."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeinfer.bench.quality.measure import Result
from edgeinfer.bench.report import head, table

__all__ = ["Layer", "markdown", "on_frontier"]


@dataclass(frozen=True, slots=True)
class Layer:
    """A file in which one layer is stored in 8 bits again; "none": no layer is."""

    name: str
    n_bytes: int
    kl: float
    perplexity: float


def on_frontier(results: Sequence[Result], cost: str) -> list[Result]:
    """The results on the Pareto front of KL and `cost`: "memory_bytes" (less is better) or "tokens_per_s" (more is
    better)."""

    def price(one: Result) -> float:
        return -one.tokens_per_s if cost == "tokens_per_s" else float(one.memory_bytes)

    return [
        one
        for one in results
        if not any(
            other.kl <= one.kl and price(other) <= price(one) and (other.kl, price(other)) != (one.kl, price(one))
            for other in results
        )
    ]


def markdown(
    results: Sequence[Result], layers: Sequence[Layer], left_out: Sequence[str], args: argparse.Namespace
) -> str:
    from edgeinfer import backends
    from edgeinfer.device import detect

    versions = backends.get(results[0].backend).probe().versions
    rows = [
        [
            one.tier,
            one.backend,
            one.kv_type,
            f"{one.n_bytes / 1e6:.0f}",
            f"{one.perplexity:.2f}",
            f"{one.kl:.4f}",
            f"{one.top1:.1%}",
            f"{one.tasks:.0%}",
            f"{one.tokens_per_s:.0f}",
            f"{one.first_token_s * 1e3:.0f}",
            f"{one.memory_bytes / 1e6:.0f}",
        ]
        for one in results
    ]
    titles = ["tier", "backend", "K and V", "MB of file", "perplexity", "KL", "top-1", "tasks", "tokens/s",
              "first token, ms", "MB in memory"]  # fmt: skip
    text = (
        head(f"Quality of {results[0].model}", command(args), detect(), versions)
        + f"\n{args.tokens} tokens of text, teacher-forced, after a BOS where the model has one. KL (nats) and top-1 "
        "are against the first row. Tasks: the right one of four continuations, 30 times. Tokens/s and the first token "
        "(of a prompt of 128) on llama.cpp: one thread, by its processor time; elsewhere on the clock. MB in memory: "
        "what opening the model and answering added to the process.\n\n" + table(titles, rows)
    )
    best = [
        ", ".join(dict.fromkeys(f"{one.tier} ({one.kv_type})" for one in on_frontier(results, cost)))
        for cost in ("tokens_per_s", "memory_bytes")
    ]
    text += f"\nNot beaten in both KL and speed: {best[0]}. In both KL and memory: {best[1]}.\n"
    text += "".join(f"\nLeft out: {one}.\n" for one in left_out)
    return text + (_layers(layers, args.layers) if layers else "")


def _layers(layers: Sequence[Layer], tier: str) -> str:
    base = layers[0]
    gains = sorted(layers[1:], key=lambda one: one.kl - base.kl)
    rows = [
        [
            one.name,
            f"{base.kl - one.kl:+.4f}",
            f"{(one.n_bytes - base.n_bytes) / 1e6:+.2f}",
            f"{(base.kl - one.kl) / max(1e-9, (one.n_bytes - base.n_bytes) / 1e6):+.4f}",
            f"{one.perplexity:.2f}",
        ]
        for one in gains
    ]
    return (
        f"\n## Which layers {tier} costs most\n\nOne layer at a time is put back to 8 bits (Q8_0); the rest stays "
        f"{tier}, whose KL is {base.kl:.4f} and perplexity {base.perplexity:.2f}. Sorted by what KL falls.\n\n"
        + table(["put back", "KL less by", "MB more", "KL for a MB", "perplexity"], rows)
    )


def command(args: argparse.Namespace) -> list[str]:
    words = ["edgeinfer", "bench", "quality"]
    for model in args.model or ():
        words += ["--model", Path(model).name]
    for flag, values in (("tier", args.tier), ("kv-type", args.kv_type), ("backend", args.backend)):
        for value in values or ():
            words += [f"--{flag}", value]
    words += ["--layers", args.layers] if args.layers else []
    words += ["--template", Path(args.template).name] if args.template else []
    words += ["--text", args.text.name] if args.text else []
    return [*words, "--tokens", str(args.tokens)]

"""`python -m benchmarks endurance`: a chat that runs far past its window. Does it grow, does it get slower?

The chat keeps its text, like a real one. A second chat of tokens alone shows what else grows. A slower chat after an
hour is mostly a slower machine. So at the end the long chat and a fresh one, both just past an eviction, answer in
turn.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

from benchmarks.long_chats import Record, Turn, session_chat, token_chat
from edgeinfer import backends
from edgeinfer.bench.opened import add_model_arguments, format_words, opened, request_of
from edgeinfer.bench.report import head, table
from edgeinfer.errors import UsageError
from edgeinfer.named_files import write_text
from edgeinfer.plan.types import Plan, Request
from edgeinfer.runner.choose import choose

_SPAN = 1000  # tokens of decoding that a speed is taken over


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes at the end, and by how many they grew."""

    rss_bytes: int
    grown_bytes: int

    @property
    def growth(self) -> float:
        return self.grown_bytes / (self.rss_bytes - self.grown_bytes)


@dataclass(frozen=True, slots=True)
class Report:
    model: str
    tokens: int
    window: int
    sink: int
    speculation: str
    evicted: int
    reanchored: int
    reprefilled: int
    early_tokens_per_s: float  # decoding, the thousand tokens after the first eviction
    long_tokens_per_s: float  # a thousand tokens at the end,
    fresh_tokens_per_s: float  # and in turn with them a thousand of a chat that has just passed its first eviction
    decode_s: float
    prefill_s: float
    memory: Memory
    tokens_alone: Memory  # of a chat of as many tokens without text
    n_turns: int  # of the long chat, before it and the fresh one answered in turn

    @property
    def slowdown(self) -> float:
        return 1 - self.long_tokens_per_s / self.fresh_tokens_per_s


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--tokens", type=int, default=50_000, metavar="N", help="length of the chat (50000)")
    parser.add_argument("--speculation", choices=("auto", "off"), default="auto", help="as in chat (auto)")
    parser.add_argument("--json", action="store_true", help="one object on stdout")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the report")


def run(args: argparse.Namespace) -> int:
    request = replace(request_of(args), speculation=args.speculation)
    plan = choose(request, offline=True)
    least = plan.window.slots + 2 * _SPAN
    if args.tokens < least:
        raise UsageError(f"a chat past its window of {plan.window.slots} needs {least} tokens or more", hint="--tokens")
    with ProcessPoolExecutor(1, get_context("spawn")) as process:  # what it frees must not serve the other chat
        alone = process.submit(tokens_alone, request, args.tokens).result()
    with session_chat(plan, args.template) as long:
        long.until(args.tokens)
        with session_chat(plan, args.template) as fresh:
            report = summed(plan, long.turns, alone, in_turn(long, fresh))
    text = markdown(report, plan, long.turns[: report.n_turns], command_of(args))
    if args.json:
        growth = {"growth": report.memory.growth, "tokens_alone_growth": report.tokens_alone.growth}
        line = {**asdict(report), **growth, "slowdown": report.slowdown}
        sys.stdout.write(json.dumps(line) + "\n")
    else:
        sys.stdout.write(text)
    if args.out:
        write_text(args.out, text)
    return 0


def command_of(args: argparse.Namespace) -> list[str]:
    command = ["python", "-m", "benchmarks", "endurance", "--model", Path(args.model).name]
    command += ["--tokens", str(args.tokens)]
    for flag in ("context", "backend"):
        if getattr(args, flag):
            command += [f"--{flag}", str(getattr(args, flag))]
    return [*command, *format_words(args), "--speculation", args.speculation]


def in_turn(*chats: Record) -> list[list[Turn]]:
    """A thousand tokens of each chat, an answer of one and an answer of the other, both from the same place of their
    windows on: how full a window is moves the speed more than its age."""
    for chat in chats:
        chat.until_evicted()
    begun = [chat.n_turns for chat in chats]

    def ends() -> list[list[Turn]]:
        return [chat.turns[at:] for chat, at in zip(chats, begun, strict=True)]

    order = list(chats)
    while min(_emitted(turns) for turns in ends()) < _SPAN:
        for chat in order:
            chat.turn()
        order.reverse()
    return ends()


def _emitted(turns: Sequence[Turn]) -> int:
    return sum(turn.emitted for turn in turns)


def _span(turns: Sequence[Turn]) -> Sequence[Turn]:
    """The first of them, until a thousand tokens are decoded."""
    return next((turns[:n] for n in range(1, len(turns)) if _emitted(turns[:n]) >= _SPAN), turns)


def _first_eviction(turns: Sequence[Turn]) -> int:
    return next(at for at, turn in enumerate(turns) if turn.evicted)


def tokens_alone(request: Request, n_tokens: int) -> Memory:
    with opened(request) as subject, token_chat(subject) as chat:
        chat.until(n_tokens)
    return _memory(chat.turns)


def _memory(turns: Sequence[Turn]) -> Memory:
    """Grown since the first eviction and re-anchoring: these are the first to use all of the engine's buffers."""
    evicted = _first_eviction(turns)
    settled = next((at for at, turn in enumerate(turns) if at >= evicted and turn.reanchored), evicted)
    last = turns[-1].rss_bytes
    return Memory(last, last - turns[min(settled + 1, len(turns) - 1)].rss_bytes)


def summed(plan: Plan, turns: Sequence[Turn], alone: Memory, ends: Sequence[Sequence[Turn]]) -> Report:
    """`turns` are those of the long chat, `ends` what it and the fresh one did in turn."""
    begun = _first_eviction(turns)
    return Report(
        model=plan.model.name,
        tokens=turns[-1].tokens,
        window=plan.window.window,
        sink=plan.window.sink,
        speculation=plan.speculation.mode,
        evicted=sum(turn.evicted for turn in turns),
        reanchored=sum(turn.reanchored for turn in turns),
        reprefilled=sum(turn.reprefilled for turn in turns),
        early_tokens_per_s=_speed(_span(turns[begun + 1 :])),
        long_tokens_per_s=_speed(ends[0]),
        fresh_tokens_per_s=_speed(ends[1]),
        decode_s=sum(turn.decode_s for turn in turns),
        prefill_s=sum(turn.prefill_s for turn in turns),
        memory=_memory(turns),
        tokens_alone=alone,
        n_turns=len(turns),
    )


def _speed(turns: Sequence[Turn]) -> float:
    seconds = sum(turn.decode_s for turn in turns)
    return sum(turn.emitted - 1 for turn in turns) / seconds if seconds else 0.0


def markdown(report: Report, plan: Plan, turns: Sequence[Turn], command: list[str]) -> str:
    versions = backends.get(plan.backend).probe().versions
    every = max(1, len(turns) // 20)
    rows = [
        [
            f"{turn.tokens}",
            f"{_speed([turn]):.0f}",
            f"{turn.prefill_s * 1000:.0f}",
            f"{turn.reprefilled}",
            f"{turn.rss_bytes / 1e6:.1f}",
        ]
        for turn in turns[::every]
    ]
    again = f"{report.reanchored} times the positions began again at 0, for which {report.reprefilled} tokens were"
    return (
        head(f"A chat of {report.tokens} tokens with {report.model}", command, plan.device, versions)
        + f"\nWindow {report.window}, sink {report.sink}, K and V in {plan.kv_type}, speculation "
        f"{report.speculation}. {report.evicted} tokens were evicted; {again} "
        f"prefilled again. Decoding took {report.decode_s:.0f} s, prefill {report.prefill_s:.0f} s.\n\n"
        "- Resident memory from the first eviction and re-anchoring on: of cache, decoder and drafters alone, driven\n"
        f"  with as many tokens and with all buffers touched before, it grew by "
        f"{report.tokens_alone.growth:.2%} ({report.tokens_alone.grown_bytes / 1e6:.2f} MB);\n"
        f"  of the whole session by {report.memory.growth:.2%} ({report.memory.grown_bytes / 1e6:.2f} MB, "
        f"{report.memory.grown_bytes / report.tokens:.0f} bytes a token), as a chat keeps its text.\n"
        f"- In turn with a fresh chat, each for {_SPAN} tokens after an eviction: the long one decoded at "
        f"{report.long_tokens_per_s:.0f} tokens/s, the fresh one at {report.fresh_tokens_per_s:.0f}: "
        f"{-report.slowdown:+.1%}. (The long one itself, after its first eviction, "
        f"{report.decode_s + report.prefill_s:.0f} s earlier: {report.early_tokens_per_s:.0f}.)\n\n"
        + table(["tokens so far", "decode, tokens/s", "prefill, ms", "prefilled again", "resident, MB"], rows)
    )

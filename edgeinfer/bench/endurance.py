"""`edgeinfer bench endurance`: a chat that runs far past its window. Does it grow, does it get slower?"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from edgeinfer.bench.memory_use import rss_bytes
from edgeinfer.bench.opened import Opened, add_model_arguments, opened, request_of
from edgeinfer.bench.report import head, table, write
from edgeinfer.decode.loop import Decoder
from edgeinfer.errors import UsageError
from edgeinfer.types import Prompt, Sampling

_SYSTEM = "<|im_start|>system\nYou are a patient storyteller.<|im_end|>\n"
_ASK = (
    "<|im_end|>\n<|im_start|>user\nGo on, please. What happened then, and who was there to see it?<|im_end|>\n"
    "<|im_start|>assistant\n"
)
_ANSWER = 200  # tokens
_SPAN = 1000  # tokens of decoding that a speed is taken over


@dataclass(frozen=True, slots=True)
class Turn:
    """After one answer: tokens of the chat so far, and what this answer took."""

    tokens: int
    emitted: int
    decode_s: float
    prefill_s: float
    reprefilled: int
    evicted: int
    reanchored: int
    rss_bytes: int


@dataclass(frozen=True, slots=True)
class Report:
    model: str
    tokens: int
    window: int
    sink: int
    evicted: int
    reanchored: int
    reprefilled: int
    first_tokens_per_s: float  # decoding, the thousand tokens after the first eviction
    last_tokens_per_s: float  # the last thousand
    decode_s: float
    prefill_s: float
    first_rss_bytes: int  # when the first eviction was done
    last_rss_bytes: int

    @property
    def growth(self) -> float:
        return self.last_rss_bytes / self.first_rss_bytes - 1

    @property
    def slowdown(self) -> float:
        return 1 - self.last_tokens_per_s / self.first_tokens_per_s


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--tokens", type=int, default=50_000, metavar="N", help="length of the chat (50000)")
    parser.add_argument("--json", action="store_true", help="one object on stdout")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the report")


def run(args: argparse.Namespace) -> int:
    with opened(request_of(args)) as subject:
        policy = subject.plan.window
        least = policy.slots + 2 * _SPAN
        if args.tokens < least:
            raise UsageError(f"a chat past its window of {policy.slots} needs {least} tokens or more", hint="--tokens")
        turns = chat(subject, args.tokens)
        report = summed(subject, turns)
        text = markdown(report, subject, turns)
    if args.json:
        line = {**asdict(report), "growth": report.growth, "slowdown": report.slowdown}
        sys.stdout.write(json.dumps(line) + "\n")
    else:
        sys.stdout.write(text)
    if args.out:
        write(args.out, text)
    return 0


def chat(subject: Opened, n_tokens: int) -> list[Turn]:
    """Answers of 200 sampled tokens, with a short question before each, until the chat has `n_tokens`."""
    tokenizer, policy = subject.model.tokenizer, subject.plan.window
    system, ask = tokenizer.encode(_SYSTEM, special=True), tokenizer.encode(_ASK, special=True)
    tokens, starts, turns = list(system), [0], list[Turn]()
    decoder = Decoder(subject.model, policy)
    try:
        decoder.cache.prefill((system * policy.window)[: policy.window])  # touches every buffer once
        decoder.cache.rewind(0)
        while len(tokens) < n_tokens:
            starts.append(len(tokens))
            tokens += ask
            prompt = Prompt(tuple(tokens), len(system), tuple(starts))
            sampling = Sampling(temperature=0.8, top_k=40, seed=len(turns))
            tokens += decoder.stream(prompt, sampling, max_tokens=_ANSWER, stop_tokens=frozenset())
            stats = decoder.stats
            turns.append(
                Turn(
                    tokens=len(tokens),
                    emitted=stats.emitted,
                    decode_s=stats.decode_s,
                    prefill_s=stats.prefill_s,
                    reprefilled=stats.reprefilled,
                    evicted=stats.evicted,
                    reanchored=stats.reanchored,
                    rss_bytes=rss_bytes(),
                )
            )
    finally:
        decoder.close()
    return turns


def summed(subject: Opened, turns: list[Turn]) -> Report:
    policy = subject.plan.window
    begun = next(at for at, turn in enumerate(turns) if turn.evicted)
    n = max(1, _SPAN // _ANSWER)
    return Report(
        model=subject.plan.model.name,
        tokens=turns[-1].tokens,
        window=policy.window,
        sink=policy.sink,
        evicted=sum(turn.evicted for turn in turns),
        reanchored=sum(turn.reanchored for turn in turns),
        reprefilled=sum(turn.reprefilled for turn in turns),
        first_tokens_per_s=_speed(turns[begun + 1 : begun + 1 + n]),
        last_tokens_per_s=_speed(turns[-n:]),
        decode_s=sum(turn.decode_s for turn in turns),
        prefill_s=sum(turn.prefill_s for turn in turns),
        first_rss_bytes=turns[begun + 1].rss_bytes,
        last_rss_bytes=turns[-1].rss_bytes,
    )


def _speed(turns: list[Turn]) -> float:
    return sum(turn.emitted - 1 for turn in turns) / sum(turn.decode_s for turn in turns)


def markdown(report: Report, subject: Opened, turns: list[Turn]) -> str:
    command = ["bench", "endurance", "--model", report.model, "--tokens", str(report.tokens)]
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
    return (
        head(f"A chat of {report.tokens} tokens with {report.model}", command, subject.plan.device, subject.versions)
        + f"\nWindow {report.window}, sink {report.sink}, K and V in {subject.plan.kv_type}. {report.evicted} tokens "
        f"were evicted; {report.reanchored} times the positions began again at 0, for which {report.reprefilled} "
        f"tokens were prefilled again. Decoding took {report.decode_s:.0f} s, prefill {report.prefill_s:.0f} s.\n\n"
        f"- Resident memory grew by {report.growth:.2%} from the first eviction to the end: "
        f"{report.first_rss_bytes / 1e6:.1f} MB to {report.last_rss_bytes / 1e6:.1f} MB.\n"
        f"- The last {_SPAN} tokens were decoded at {report.last_tokens_per_s:.0f} tokens/s, those after the first "
        f"eviction at {report.first_tokens_per_s:.0f}: {-report.slowdown:+.1%}.\n\n"
        + table(["tokens so far", "decode, tokens/s", "prefill, ms", "prefilled again", "resident, MB"], rows)
    )

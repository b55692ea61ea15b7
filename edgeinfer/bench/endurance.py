"""`edgeinfer bench endurance`: a chat that runs far past its window. Does it grow, does it get slower?

Slower than what it was an hour ago is mostly the machine. So at the end the long chat and a fresh one, both just past
an eviction, answer in turn.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from edgeinfer.bench.memory_use import rss_bytes
from edgeinfer.bench.opened import Opened, add_model_arguments, opened, request_of
from edgeinfer.bench.report import head, table, write
from edgeinfer.decode.loop import Decoder
from edgeinfer.decode.strategy import build
from edgeinfer.errors import UsageError
from edgeinfer.types import Prompt, Sampling, compact

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
    speculation: str
    evicted: int
    reanchored: int
    reprefilled: int
    early_tokens_per_s: float  # decoding, the thousand tokens after the first eviction
    long_tokens_per_s: float  # a thousand tokens at the end,
    fresh_tokens_per_s: float  # and in turn with them a thousand of a chat that has just passed its first eviction
    decode_s: float
    prefill_s: float
    first_rss_bytes: int  # when the first eviction was done
    last_rss_bytes: int
    n_turns: int  # of the long chat, before it and the fresh one answered in turn

    @property
    def growth(self) -> float:
        return self.last_rss_bytes / self.first_rss_bytes - 1

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
    with opened(replace(request_of(args), speculation=args.speculation)) as subject:
        policy = subject.plan.window
        least = policy.slots + 2 * _SPAN
        if args.tokens < least:
            raise UsageError(f"a chat past its window of {policy.slots} needs {least} tokens or more", hint="--tokens")
        with closing(Chat(subject)) as long, closing(Chat(subject)) as fresh:
            report = measure(subject, long, fresh, args.tokens)
            text = markdown(report, subject, long.turns[: report.n_turns], command_of(args))
    if args.json:
        line = {**asdict(report), "growth": report.growth, "slowdown": report.slowdown}
        sys.stdout.write(json.dumps(line) + "\n")
    else:
        sys.stdout.write(text)
    if args.out:
        write(args.out, text)
    return 0


class Chat:
    """Answers of 200 sampled tokens, with a short question before each."""

    def __init__(self, subject: Opened) -> None:
        tokenizer, policy = subject.model.tokenizer, subject.plan.window
        system = tokenizer.encode(_SYSTEM, special=True)
        self._ask = tokenizer.encode(_ASK, special=True)
        self._n_system = len(system)
        self._tokens = compact(system)
        self._starts = [0]
        self.turns: list[Turn] = []
        self._strategy = build(subject.model, subject.plan)
        self._decoder = Decoder(
            subject.model, policy, controller=self._strategy.controller, drafters=self._strategy.drafters
        )
        self._decoder.cache.prefill((system * policy.window)[: policy.window])  # touches every buffer once
        self._decoder.cache.rewind(0)

    def __len__(self) -> int:
        return len(self._tokens)

    def turn(self) -> Turn:
        self._starts.append(len(self._tokens))
        self._tokens.extend(self._ask)
        prompt = Prompt(self._tokens, self._n_system, tuple(self._starts))
        sampling = Sampling(temperature=0.8, top_k=40, seed=len(self.turns))
        answer = list(self._decoder.stream(prompt, sampling, max_tokens=_ANSWER, stop_tokens=frozenset()))
        self._tokens.extend(answer)
        stats = self._decoder.stats
        turn = Turn(
            tokens=len(self._tokens),
            emitted=stats.emitted,
            decode_s=stats.decode_s,
            prefill_s=stats.prefill_s,
            reprefilled=stats.reprefilled,
            evicted=stats.evicted,
            reanchored=stats.reanchored,
            rss_bytes=rss_bytes(),
        )
        self.turns.append(turn)
        return turn

    def until_evicted(self) -> None:
        while not self.turn().evicted:
            pass

    def close(self) -> None:
        self._decoder.close()
        self._strategy.close()


def command_of(args: argparse.Namespace) -> list[str]:
    command = ["bench", "endurance", "--model", Path(args.model).name, "--tokens", str(args.tokens)]
    for flag in ("context", "kv_type", "backend"):
        if getattr(args, flag):
            command += ["--" + flag.replace("_", "-"), str(getattr(args, flag))]
    return [*command, "--speculation", args.speculation]


def measure(subject: Opened, long: Chat, fresh: Chat, n_tokens: int) -> Report:
    while len(long) < n_tokens:
        long.turn()
    n_long, n = len(long.turns), _SPAN // _ANSWER
    for chat in (long, fresh):  # both at the same place of their window: how full it is moves the speed more than age
        chat.until_evicted()
    n_before = (len(long.turns), len(fresh.turns))
    for index in range(n):
        for chat in (long, fresh) if index % 2 else (fresh, long):
            chat.turn()
    ends = (long.turns[n_before[0] :], fresh.turns[n_before[1] :])
    return summed(subject, long.turns[:n_long], ends)


def summed(subject: Opened, turns: list[Turn], ends: tuple[list[Turn], list[Turn]]) -> Report:
    """`turns` are those of the long chat, `ends` what it and the fresh one did in turn."""
    policy = subject.plan.window
    begun = next(at for at, turn in enumerate(turns) if turn.evicted)
    return Report(
        model=subject.plan.model.name,
        tokens=turns[-1].tokens,
        window=policy.window,
        sink=policy.sink,
        speculation=subject.plan.speculation.mode,
        evicted=sum(turn.evicted for turn in turns),
        reanchored=sum(turn.reanchored for turn in turns),
        reprefilled=sum(turn.reprefilled for turn in turns),
        early_tokens_per_s=_speed(turns[begun + 1 : begun + 1 + _SPAN // _ANSWER]),
        long_tokens_per_s=_speed(ends[0]),
        fresh_tokens_per_s=_speed(ends[1]),
        decode_s=sum(turn.decode_s for turn in turns),
        prefill_s=sum(turn.prefill_s for turn in turns),
        first_rss_bytes=turns[begun + 1].rss_bytes,
        last_rss_bytes=turns[-1].rss_bytes,
        n_turns=len(turns),
    )


def _speed(turns: list[Turn]) -> float:
    return sum(turn.emitted - 1 for turn in turns) / sum(turn.decode_s for turn in turns)


def markdown(report: Report, subject: Opened, turns: list[Turn], command: list[str]) -> str:
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
        head(f"A chat of {report.tokens} tokens with {report.model}", command, subject.plan.device, subject.versions)
        + f"\nWindow {report.window}, sink {report.sink}, K and V in {subject.plan.kv_type}, speculation "
        f"{report.speculation}. {report.evicted} tokens were evicted; {again} "
        f"prefilled again. Decoding took {report.decode_s:.0f} s, prefill {report.prefill_s:.0f} s.\n\n"
        f"- Resident memory grew by {report.growth:.2%} from the first eviction to the end: "
        f"{report.first_rss_bytes / 1e6:.1f} MB to {report.last_rss_bytes / 1e6:.1f} MB.\n"
        f"- In turn with a fresh chat, each for {_SPAN} tokens after an eviction: the long one decoded at "
        f"{report.long_tokens_per_s:.0f} tokens/s, the fresh one at {report.fresh_tokens_per_s:.0f}: "
        f"{-report.slowdown:+.1%}. (The long one itself, after its first eviction, "
        f"{report.decode_s + report.prefill_s:.0f} s earlier: {report.early_tokens_per_s:.0f}.)\n\n"
        + table(["tokens so far", "decode, tokens/s", "prefill, ms", "prefilled again", "resident, MB"], rows)
    )

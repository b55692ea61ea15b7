"""Flags that several commands share, and the values they become."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeinfer.errors import UsageError
from edgeinfer.types import KV_CHOICES

if TYPE_CHECKING:
    from edgeinfer.plan import Request
    from edgeinfer.types import Sampling

SERVER_SINK = 512  # tokens; tools count as part of the system prompt


def add_json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")


def add_plan_options(parser: argparse.ArgumentParser, *, several_models: bool = False) -> None:
    """With `several_models`, --model may be repeated and its value is a list."""
    from edgeinfer import backends
    from edgeinfer.decode.drafters import speculation_modes

    modes = speculation_modes()
    group = parser.add_argument_group("what to run")
    group.add_argument(
        "-m",
        "--model",
        action="append" if several_models else "store",
        default=[] if several_models else "",
        metavar="NAME",
        help="a catalog name, `org/repo`, `org/repo:TIER`, or a path; without it one is chosen for the device"
        + ("; may be repeated" if several_models else ""),
    )
    group.add_argument("--tier", default="", help="the quantization, such as Q4_K_M")
    names = tuple(facts.name for facts in backends.FACTS)
    group.add_argument("--backend", default="", choices=names, metavar="NAME", help=", ".join(names))
    group.add_argument("-c", "--context", type=count, metavar="N", help="tokens that the window holds, sinks included")
    group.add_argument("--sink", type=count0, metavar="N", help="first tokens that are never evicted (128)")
    group.add_argument(
        "--kv-type",
        choices=KV_CHOICES,
        metavar="TYPE",
        help="f16, q8_0, q4_0, or q8_0/f16: K in 8 bits, V in 16 (f32 on the reference)",
    )
    group.add_argument(
        "--threads",
        type=count,
        default=0,
        metavar="N",
        help="of the processor; without it the fastest number is measured",
    )
    group.add_argument(
        "--prefer",
        default="balanced",
        choices=("balanced", "speed", "quality", "context"),
        metavar="WHAT",
        help="balanced, speed, quality or context",
    )
    group.add_argument(
        "--min-speed", type=positive, default=8.0, metavar="N", help="tokens/s that a choice must reach (8)"
    )
    group.add_argument("--force", action="store_true", help="take the named model even if it does not fit")
    group.add_argument(
        "--speculation",
        default="auto",
        choices=modes,
        metavar="MODE",
        help=f"{', '.join(modes[:-1])} or {modes[-1]}",
    )
    group.add_argument("--draft", default="", metavar="FILE", help="a draft that was taught to the model")
    group.add_argument("--draft-model", default="", metavar="NAME", help="a small model with the same tokenizer")
    parser.set_defaults(conversations=1, json_schemas=False, others_bytes=None)  # a server differs


def add_open_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("files")
    group.add_argument("--offline", action="store_true", help="never use the network")
    group.add_argument("-y", "--yes", action="store_true", help="download without asking")
    group.add_argument(
        "--template", default="", metavar="FILE", help="a Jinja chat template instead of the model's own, or `chatml`"
    )


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the answer (defaults: what the model's authors recommend)")
    group.add_argument("--temp", type=nonnegative, metavar="T", help="temperature; 0 takes the most likely token")
    group.add_argument("--top-k", type=count0, metavar="K", help="only the K most likely tokens; 0: all")
    group.add_argument("--top-p", type=share, metavar="P", help="only the most likely tokens that sum to P")
    group.add_argument(
        "--min-p", type=share, metavar="P", help="only tokens at least P times as likely as the most likely"
    )
    group.add_argument("--repeat-penalty", type=positive, metavar="R", help="above 1 makes recent tokens less likely")
    group.add_argument(
        "--seed", type=count0, metavar="N", help="the same seed gives the same answer; default: a new one each time"
    )
    group.add_argument(
        "-n", "--max-tokens", type=count, default=2048, metavar="N", help="longest answer, in tokens (2048)"
    )
    group.add_argument(
        "--stop",
        action="append",
        default=[],
        type=unescaped,
        metavar="TEXT",
        help="end an answer before this text, where `\\n` is a line end; may be repeated",
    )
    group.add_argument("--system", default="", metavar="TEXT", help="the system prompt")
    group.add_argument(
        "--no-thinking",
        action="store_true",
        help="turn reasoning off, and end it if the model begins it anyway",
    )
    group.add_argument(
        "--think-budget", type=count, default=1024, metavar="N", help="longest reasoning, in tokens (1024)"
    )
    group.add_argument("--stats", action="store_true", help="print speed and counts of each answer on stderr")


def model_name(text: str) -> str:
    """Of a command that needs one: an empty name would mean the best model for the device."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must name a model; received an empty text")
    return text


def take_name(args: argparse.Namespace) -> None:
    """Take the model from the word or from --model. Raises UsageError for two different ones."""
    if args.name and args.model and args.name != args.model:
        raise UsageError(f"there are two models: `{args.name}` and `{args.model}`", hint="name one")
    args.model = args.model or args.name


def plan_for_server(args: argparse.Namespace) -> None:
    """Room for what the clients of a server send: long system prompts, and schemas for the answers."""
    args.json_schemas = True
    if args.sink is None and (args.context is None or args.context >= 4 * SERVER_SINK):
        args.sink = SERVER_SINK


def request_from(args: argparse.Namespace) -> Request:
    from edgeinfer.plan import Request

    if args.draft_model and args.speculation not in ("auto", "draft"):
        raise UsageError(
            f"--draft-model has no effect with --speculation {args.speculation}", hint="leave one of them out"
        )
    return Request(
        model=args.model,
        tier=args.tier,
        backend=args.backend,
        context=args.context,
        sink=args.sink,
        kv_type=args.kv_type,
        prefer=args.prefer,
        min_tokens_per_s=args.min_speed,
        speculation=args.speculation,
        draft_model=args.draft_model,
        draft_file=args.draft,
        force=args.force,
        conversations=args.conversations,
        threads=args.threads,
        json_schemas=args.json_schemas,
        others_bytes=args.others_bytes,
    )


def sampling_from(args: argparse.Namespace, usual: Sampling) -> Sampling:
    given = {
        "temperature": args.temp,
        "top_k": args.top_k,
        "top_p": args.top_p,
        "min_p": args.min_p,
        "repeat_penalty": args.repeat_penalty,
        "seed": args.seed,
    }
    if args.seed is None:
        given["seed"] = int.from_bytes(os.urandom(4), "big")
    sampling = replace(usual, **{name: value for name, value in given.items() if value is not None})
    truncations = {"--top-k": args.top_k, "--top-p": args.top_p, "--min-p": args.min_p}
    unused = [flag for flag, value in truncations.items() if value is not None]
    if unused and args.temp is None and sampling.temperature == 0:
        raise UsageError(
            f"{unused[0]} has no effect: this model takes the most likely token unless a temperature is given",
            hint=f"add `--temp 1`, or leave {unused[0]} out",
        )
    return sampling


def number(text: str, kind: type[int] | type[float], least: float, most: float, what: str) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = kind(-1)
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"must be {what}; received `{text}`")
    return value


def unescaped(text: str) -> str:
    r"""`text` with the escapes `\n`, `\t`, `\r`, `\\` and `\u` with four hexadecimal digits replaced."""
    short = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}
    return re.sub(r"\\(?:u([0-9a-fA-F]{4})|([ntr\\]))", lambda m: short[m[2]] if m[2] else chr(int(m[1], 16)), text)


def stop_texts(text: str) -> tuple[str, ...]:
    """The words of `text`, escapes replaced. Quotes hold a word with spaces together."""
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split, lexer.escape, lexer.commenters = True, "", ""
    try:
        words = tuple(map(unescaped, lexer))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must close every quote; received `{text}`") from None
    if "" in words:
        raise argparse.ArgumentTypeError("must not be empty")
    return words


def count(text: str) -> int:
    return int(number(text, int, 1, 2**31, f"a whole number from 1 to {2**31}"))


def count0(text: str) -> int:
    return int(number(text, int, 0, 2**63 - 1, "a whole number of at least 0"))


def port(text: str) -> int:
    return int(number(text, int, 1, 65535, "a port from 1 to 65535"))


def nonnegative(text: str) -> float:
    return number(text, float, 0.0, 100.0, "a number from 0 to 100")


def positive(text: str) -> float:
    return number(text, float, 1e-6, 1e9, "a number above 0 and up to 1e9")


def share(text: str) -> float:
    return number(text, float, 0.0, 1.0, "a number from 0 to 1")

"""The `edgeinfer` command: finds the command's file, runs it, and turns every failure into a line and an exit code."""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol, cast

from edgeinfer import __version__
from edgeinfer.cli import streams
from edgeinfer.cli.output import complain, near, show, show_json
from edgeinfer.cli.parser import Parser, make_parser
from edgeinfer.cli.signals import ended_by_signals
from edgeinfer.errors import EdgeInferError, NoPlanError, UsageError

COMMANDS = (
    "chat",
    "run",
    "serve",
    "plan",
    "pull",
    "list",
    "show",
    "rm",
    "models",
    "export",
    "verify",
    "tune",
    "bench",
    "doctor",
)
ALIASES = {"ls": "list"}
TOP = """\
edgeinfer runs a language model on the device in front of you

usage: edgeinfer COMMAND [--help] [...]

commands:
{commands}

flags:
  -h, --help     this page; `edgeinfer COMMAND --help` has more
  --version      the version
  --debug        with any command: also print a traceback

examples:
  edgeinfer chat                        choose a model for this machine, say why, and chat
  edgeinfer chat --model demo           chat with the 46M-parameter demonstration: no download
  edgeinfer run "Why is the sky blue?"  one answer on stdout
  edgeinfer plan --device iphone-15-pro what would run on another device\
"""


class Command(Protocol):
    """A module of this package."""

    HELP: str  # one line
    USAGE: str
    EXAMPLES: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...
    def run(self, args: argparse.Namespace) -> int: ...


def load(name: str) -> Command:
    return cast("Command", importlib.import_module(f"edgeinfer.cli.{name}_command"))


def top_help() -> str:
    return TOP.format(commands="\n".join(f"  {name:<8} {load(name).HELP}" for name in COMMANDS))


def parser_of(name: str) -> Parser:
    module = load(name)
    parser = make_parser(name, module.HELP, module.USAGE, module.EXAMPLES)
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="also print a traceback")
    return parser


def dispatch(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        show(top_help())
        return 0
    if argv[0] == "--version":
        show(f"edgeinfer {__version__}")
        return 0
    name = ALIASES.get(argv[0], argv[0])
    if name not in COMMANDS:
        what = "flag" if name.startswith("-") else "command"
        raise UsageError(
            f"there is no {what} `{printable(name)}`",
            hint=near(name, [*COMMANDS, "--help", "--version"]) or "`edgeinfer --help` lists the commands",
        )
    args = parser_of(name).parse(argv[1:])
    return load(name).run(args)


def printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    streams.prepare()
    debug = "--debug" in argv
    try:
        if any(not argument.isprintable() and has_surrogates(argument) for argument in argv):
            raise UsageError("an argument is not UTF-8", hint="convert it, for example with `iconv -f latin1 -t utf-8`")
        with ended_by_signals():
            return dispatch([argument for argument in argv if argument != "--debug"] if debug else argv)
    except EdgeInferError as error:
        if debug:
            traceback.print_exc()
        complain(str(error), error.hint)
        if "--json" in argv:
            with suppress(EdgeInferError, BrokenPipeError):  # stdout may be what failed
                show_json(error_object(error))
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader has left
        return 141
    except MemoryError:
        complain("there is not enough memory to begin", "end other programs, or raise the limit that `ulimit -v` shows")
        return NoPlanError.exit_code
    except Exception as error:
        if debug:
            traceback.print_exc()
        complain(f"unexpected {type(error).__name__}: {error}", "`--debug` shows where")
        return 70
    finally:
        streams.let_go()


def error_object(error: EdgeInferError) -> dict[str, object]:
    """What a program reads under --json when a command is refused."""
    said: dict[str, object] = {"error": str(error), "hint": error.hint, "exit_code": error.exit_code}
    return said | ({"rejected": list(error.rejected)} if isinstance(error, NoPlanError) else {})


def has_surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def entry() -> None:
    sys.exit(main())

"""argparse with one-line errors, suggestions for unknown flags, and the same help pages on every Python."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from edgeinfer.cli.output import near, show
from edgeinfer.errors import UsageError

WIDTH = 100


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """`-m, --model NAME` in place of `-m NAME, --model NAME`, at a fixed width."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=WIDTH)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, action.dest.upper())
        return f"{', '.join(action.option_strings)} {value}"


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message.replace("argument ", "", 1), hint=f"`{self.prog} --help` lists the options")

    def print_help(self, file: object = None) -> None:
        """On stdout. argparse would ignore a stdout that takes nothing."""
        del file
        show(self.format_help().rstrip("\n"))

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Raises UsageError for whatever cannot be parsed."""
        takes_rest = any(action.nargs == argparse.REMAINDER for action in self._actions)
        # intermixed: words may stand before and after flags
        parse = self.parse_known_args if takes_rest else self.parse_known_intermixed_args
        args, unknown = parse(argv)
        if unknown:
            word = unknown[0].split("=")[0]
            what = "there is no flag" if word.startswith("-") else "there is one word too many:"
            hint = near(word, self._option_string_actions) if word.startswith("-") else ""
            raise UsageError(f"{what} `{word}`", hint=hint or f"`{self.prog} --help` lists the options")
        return args


def make_parser(name: str, help: str, usage: str, examples: str) -> Parser:
    parser = Parser(
        prog=f"edgeinfer {name}",
        usage=f"edgeinfer {usage}",
        description=help,
        epilog=f"examples:\n{examples.rstrip()}",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.color = False  # type: ignore[attr-defined,unused-ignore]  # Python 3.14 would color the page
    return parser

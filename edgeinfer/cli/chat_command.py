"""`edgeinfer chat`: choose a model, explain the choice, load it, and chat."""

from __future__ import annotations

import argparse
import sys
from threading import Thread

from edgeinfer.cli.options import add_open_options, add_plan_options, add_sampling_options, take_name
from edgeinfer.cli.output import say, whisper

HELP = "chat with a model: the best one for this device, or the one named"
USAGE = "chat [MODEL] [--context N] [--system TEXT] [--temp T] [--stats] [...]"
EXAMPLES = """\
  edgeinfer chat                                choose a model for this machine, say why, and chat
  edgeinfer chat --model demo                   the 46M-parameter demonstration: no download
  edgeinfer chat qwen3-4b --context 8192 --stats
  edgeinfer chat unsloth/Qwen3-4B-GGUF:Q4_K_M   one file of a repository
  printf 'Hi\\nAnd you?\\n' | edgeinfer chat demo every line is a message
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", default="", metavar="MODEL", help="the same as --model")
    add_plan_options(parser)
    add_open_options(parser)
    add_sampling_options(parser)
    parser.add_argument("--fallback", default="", metavar="NAME", help="the model to use if MODEL is not downloaded")


def run(args: argparse.Namespace) -> int:
    from edgeinfer.cli.banner import banner
    from edgeinfer.cli.opening import fetch_or_fall_back, load_from, plan_from, say_choice
    from edgeinfer.cli.settings import settings_from
    from edgeinfer.paths import chats_folder

    take_name(args)
    plan = plan_from(args)
    if not args.model:
        say_choice(plan)
    if args.fallback:
        plan = fetch_or_fall_back(args, plan)
    settings = settings_from(args, plan.model.sampling)
    editor = Thread(target=import_editor, daemon=True)  # while the model loads, which is not Python's work
    editor.start()
    with load_from(args, plan) as model:
        editor.join()
        from edgeinfer.cli.autosave import Autosave
        from edgeinfer.cli.lines import line_source
        from edgeinfer.cli.repl import Repl

        first, *more = banner(plan)
        say(first)
        for line in more:
            whisper(line)
        source = line_source()
        if not sys.stdin.isatty():
            whisper("(reading messages from stdin, one a line)")
        return Repl(plan, model.chat(), settings, Autosave(chats_folder())).run(source)


def import_editor() -> None:
    if sys.stdin.isatty():
        import prompt_toolkit  # noqa: F401

"""`edgeinfer run`: one prompt, one answer."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from edgeinfer.cli.options import add_json_option, add_open_options, add_plan_options, add_sampling_options
from edgeinfer.cli.output import show_json, whisper
from edgeinfer.cli.reading import read_stdin, stdin_is_fed, stdin_is_shared
from edgeinfer.errors import UsageError
from edgeinfer.text import BOM

if TYPE_CHECKING:
    from edgeinfer.cli.settings import Settings
    from edgeinfer.runner.model import LoadedModel

HELP = "answer one prompt on stdout"
USAGE = "run [MODEL] PROMPT [--json] [--stats] [--temp T] [--max-tokens N] [...]"
EXAMPLES = """\
  edgeinfer run "Why is the sky blue?"
  edgeinfer run demo "Hi"                       the model may come first
  edgeinfer run --model demo --temp 0 "Hi"      the most likely answer, the same every time
  git diff | edgeinfer run "Sum this up:"       piped text follows the prompt; a shell loop needs `-`
  edgeinfer run --model demo - < question.txt   `-` is all of stdin
  edgeinfer run --raw demo "Once upon a time"   continue a text, without a chat template
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="[MODEL] PROMPT", help="the prompt; `-` reads it from stdin")
    parser.add_argument("-p", "--prompt", default="", metavar="TEXT", help="the prompt as a flag")
    parser.add_argument("--raw", action="store_true", help="continue the text, without a chat template")
    add_json_option(parser)
    add_plan_options(parser)
    add_open_options(parser)
    add_sampling_options(parser)


def run(args: argparse.Namespace) -> int:
    from edgeinfer.cli.opening import load_from, plan_from, say_choice
    from edgeinfer.cli.settings import settings_from

    if args.raw and (args.system or args.template or args.no_thinking):
        raise UsageError(
            "--raw uses no chat template, so --system, --template and --no-thinking have no effect",
            hint="leave them out",
        )
    prompt = prompt_from(args)
    plan = plan_from(args)
    if not args.model:
        say_choice(plan)
    settings = settings_from(args, plan.model.sampling)
    with load_from(args, plan) as model:
        return answer(model, prompt, settings, raw=args.raw, as_json=args.json)


def prompt_from(args: argparse.Namespace) -> str:
    """The words, the flag and stdin; a first word of two is the model.

    A prompt on the command line is followed by what is piped in, unless a shell loop or script reads the same stdin.
    `-` reads it in any case.
    """
    words = [word for word in args.words if word != "-"]
    wants_stdin = len(words) < len(args.words)
    n_texts = len(words) + bool(args.prompt)
    if words and not args.model and (n_texts == 2 or (n_texts == 1 and wants_stdin)):
        args.model = words.pop(0)
    texts = [*words, args.prompt] if args.prompt else words
    if len(texts) > 1:
        raise UsageError(f"there are {len(texts)} prompts", hint='put the prompt in quotes: edgeinfer run MODEL "..."')
    if not texts and not wants_stdin and sys.stdin.isatty():
        raise UsageError("there is no prompt", hint='edgeinfer run "Why is the sky blue?"')
    prompt = "\n\n".join(text for text in (*texts, piped(wants_stdin or not texts)) if text).removeprefix(BOM)
    if not prompt.strip():
        raise UsageError("the prompt is empty", hint='edgeinfer run "Why is the sky blue?"')
    return prompt


def piped(asked_for: bool) -> str:
    """The part of the prompt that comes from stdin."""
    if asked_for:
        return read_stdin()
    if not stdin_is_fed():
        return ""
    if stdin_is_shared():
        whisper("(stdin was left to the shell that reads it; `-` after the prompt adds it)")
        return ""
    return read_stdin()


def answer(model: LoadedModel, prompt: str, settings: Settings, *, raw: bool, as_json: bool) -> int:
    from edgeinfer.cli.stats_lines import stats_json
    from edgeinfer.cli.streaming import print_answer, say_what_happened, window_news

    plan = model.plan
    notices: tuple[str, ...] = ()
    if raw:
        said = print_answer(lambda: model.complete(prompt, **settings.options), settings, quiet=as_json)
    else:
        chat = model.chat(system=settings.system)
        said = print_answer(lambda: chat.stream(prompt, **settings.options), settings, quiet=as_json)
        notices = chat.notices
    if as_json:
        show_json(
            {
                "model": plan.model.name,
                "tier": plan.artifact.tier,
                "backend": plan.backend,
                "text": said.text,
                "stats": stats_json(said.stats),
            }
        )
    for news in (*(f"({notice})" for notice in notices), *window_news(said.stats, plan.window).values()):
        whisper(news)
    say_what_happened(said.stats, settings)
    if said.finish_reason == "canceled":
        whisper("(stopped)")
        return 130
    return 0

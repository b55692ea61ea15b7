"""`edgeinfer serve`: a local server for OpenAI, Anthropic and Ollama clients."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from edgeinfer.cli.options import add_open_options, add_plan_options, count, count0, plan_for_server, port
from edgeinfer.cli.output import say, whisper
from edgeinfer.errors import BackendError, UsageError
from edgeinfer.named_files import read_text

if TYPE_CHECKING:
    from edgeinfer.plan import Plan

MAX_TOKEN_BYTES = 4096
HELP = "answer OpenAI, Anthropic and Ollama clients on this machine"
USAGE = "serve [MODEL ...] [--conversations N] [--port N] [...]"
EXAMPLES = """\
  edgeinfer serve demo                          http://127.0.0.1:8080/v1 for OpenAI clients
  edgeinfer serve qwen3-4b --conversations 2    two answers at once
  edgeinfer serve qwen3-0.6b smollm2-135m       two models, by their names in requests
  edgeinfer serve --host 0.0.0.0 --token-file token.txt
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", default=[], metavar="MODEL", help="the same as --model")
    add_plan_options(parser, several_models=True)
    group = parser.add_argument_group("the server")
    group.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on (127.0.0.1)")
    group.add_argument("--port", type=port, default=8080, metavar="N", help="port to listen on (8080)")
    group.add_argument(
        "--conversations", type=count, default=4, metavar="N", help="answers that run at once, each with a window (4)"
    )
    group.add_argument("--queue", type=count, metavar="N", help="requests that may wait (4 for each conversation)")
    group.add_argument(
        "--prefix-memory", type=count0, default=512, metavar="MB", help="memory for cached prompt prefixes (512)"
    )
    group.add_argument(
        "--prefix-disk", type=count0, default=4096, metavar="MB", help="disk space for them, kept between runs (4096)"
    )
    group.add_argument("--token-file", default="", metavar="FILE", help="a file with the token that requests must send")
    group.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="another host name of this server"
    )
    group.add_argument(
        "--origin", action="append", default=[], metavar="URL", help="a web origin that may send requests"
    )
    add_open_options(parser)


def run(args: argparse.Namespace) -> int:
    try:
        from edgeinfer.serve.http.safety import Access
        from edgeinfer.serve.run import accept, address_of, bound, serve
    except ModuleNotFoundError as error:
        raise BackendError(
            f"the server needs {error.name}, which is not installed", hint="pip install 'edgeinfer[serve]'"
        ) from error
    from edgeinfer.cli.opening import load_from, say_choice
    from edgeinfer.serve.engine.scheduler import REST_AFTER_S
    from edgeinfer.serve.models import Models
    from edgeinfer.serve.served import ServedModel
    from edgeinfer.serve.store.opening import StoreSize, prefixes_of

    plan_for_server(args)
    access = Access(args.host, read_token(args.token_file), frozenset(args.allow_host), frozenset(args.origin))
    names = list(dict.fromkeys([*args.names, *args.model]))
    plans = plans_of(args, names)
    listening = bound(args.host, args.port)  # before a model is loaded, which may take a minute
    if not names:
        say_choice(plans[0])
    rest_after_s = REST_AFTER_S if len(plans) > 1 else None
    size = StoreSize(args.prefix_memory * 10**6 // len(plans), args.prefix_disk * 10**6 // len(plans))
    with listening, ExitStack() as opened:
        served = []
        for plan in plans:
            model = load_from(args, plan)
            open_prefixes = prefixes_of(plan, size, whisper)
            served.append(
                ServedModel(model, open_prefixes=open_prefixes, max_waiting=args.queue, rest_after_s=rest_after_s)
            )
            opened.callback(served[-1].close)
        accept(listening)  # whoever reads the next line can connect
        for plan in plans:
            say(f"{plan.model.title}, {plan.artifact.tier}: {address_of(args.host, args.port)}/v1")
            whisper(f"  {plan.n_conversations} conversations at once, a window of {plan.window.slots} tokens for each")
        whisper(f"  a page to chat on: {address_of(args.host, args.port)}/")
        opened.pop_all()  # `serve` closes them
        serve(Models(served), access, listening)
    return 0


def plans_of(args: argparse.Namespace, names: Sequence[str]) -> list[Plan]:
    """A plan for each model, in the memory that those before it leave; all are made before one is loaded.

    Raises UsageError for flags that belong to one model, and for two models of one name.
    """
    from edgeinfer.cli.opening import plan_from

    if len(names) > 1:
        of_one = {
            "--tier": args.tier,
            "--template": args.template,
            "--draft": args.draft,
            "--draft-model": args.draft_model,
        }
        if given := next((flag for flag, value in of_one.items() if value), ""):
            raise UsageError(f"{given} is for one model, and there are {len(names)}", hint="name a tier as MODEL:TIER")
    plans: list[Plan] = []
    for name in names or [""]:
        args.model = name
        if len(names) > 1:
            args.others_bytes = sum(plan.estimate.total_bytes for plan in plans)
        plans.append(plan_from(args))
    titles = [plan.model.name for plan in plans]
    if twice := next((one for one in titles if titles.count(one) > 1), ""):
        raise UsageError(f"two models are called `{twice}`, and requests name one", hint="serve one of them")
    return plans


def read_token(name: str) -> str:
    """The token in a file: a flag would show it to every user of the machine."""
    if not name:
        return ""
    title = f"the token file `{name}`"
    token = read_text(Path(name), title=title, most_bytes=MAX_TOKEN_BYTES, waiting=whisper).strip()
    if len(token) < 16:
        raise UsageError(f"the token in `{name}` has {len(token)} characters; at least 16 are needed")
    return token

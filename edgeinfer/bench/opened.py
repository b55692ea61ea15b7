"""A model opened for a measurement: planned as `chat` would plan it, speculation off."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from edgeinfer import backends
from edgeinfer.chat.prompt import PromptBuilder
from edgeinfer.chat.template import Renderer, Template
from edgeinfer.errors import ArtifactError
from edgeinfer.plan.types import Plan, Request
from edgeinfer.protocols import Model, Tokenizer
from edgeinfer.runner.choose import choose
from edgeinfer.runner.opening import local_path, read_template
from edgeinfer.types import KV_CHOICES, Message


@dataclass(frozen=True, slots=True)
class OpenedModel:
    plan: Plan
    model: Model
    versions: Mapping[str, str]


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="demo", metavar="NAME|PATH", help="default: demo")
    parser.add_argument("--context", type=int, metavar="N", help="sink + window, in tokens")
    add_format_arguments(parser)
    parser.add_argument("--backend", default="", metavar="NAME", help="a backend that `edgeinfer doctor` lists")


def add_format_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kv-type", choices=KV_CHOICES, help="type of K and V in the cache")
    parser.add_argument(
        "--template", default="", metavar="FILE", help="a Jinja chat template for the texts, or `chatml`"
    )


def format_words(args: argparse.Namespace) -> list[str]:
    """The arguments of `add_format_arguments` that were given, as words of the command."""
    words = ["--kv-type", args.kv_type] if args.kv_type else []
    return [*words, "--template", Path(args.template).name] if args.template else words


def text_tokens(tokenizer: Tokenizer, text: str, template: str = "") -> list[int]:
    """The tokens of a text: after a BOS if the model has one, or with a template as the question of a chat."""
    if not template:
        return [*tokenizer.encode(tokenizer.bos_text, special=True), *tokenizer.encode(text, special=False)]
    with closing(Renderer()) as renderer:
        words = Template(
            renderer, read_template(template), bos=tokenizer.bos_text, eos=tokenizer.eos_text, file=template
        )
        return list(PromptBuilder(words, tokenizer).build([Message("user", text)]).tokens)


def request_of(args: argparse.Namespace) -> Request:
    return Request(
        model=args.model,
        backend=args.backend,
        context=args.context,
        kv_type=args.kv_type,
        speculation="off",
        force=True,
    )


@contextmanager
def opened(request: Request, *, n_threads: int = 0) -> Iterator[OpenedModel]:
    """The model of the plan for `request` on this machine; closed at the end. Downloads nothing.

    With 0 threads the engine measures the fastest number now.
    """
    plan = replace(choose(request, offline=True), n_threads=n_threads)
    backend = backends.get(plan.backend)
    model = backend.load(plan, path_of(plan))
    try:
        yield OpenedModel(plan, model, backend.probe().versions)
    finally:
        model.close()


def path_of(plan: Plan) -> Path:
    path = local_path(plan.artifact)
    if path is None:
        raise ArtifactError(f"{plan.model.name} is not on this machine", hint=f"edgeinfer pull {plan.model.name}")
    return path

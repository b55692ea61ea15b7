"""Renders chat templates in a separate process, because a template is a program from a stranger.

Run as a script, it imports Jinja and nothing of edgeinfer. One JSON request a line on stdin, one JSON reply a line on
stdout. The sandbox refuses what it knows. The system also limits processor time, memory and output, because a sandbox
alone cannot stop `{{ 'x' * 10**10 }}`. Each request names its own limit of processor time, `cpu_s`.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import jinja2
from jinja2 import debug as _debug  # noqa: F401  # imported late by Jinja, when the limits no longer allow it
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import SandboxedEnvironment

MEMORY_BYTES = 512 * 1024 * 1024
OUTPUT_CHARS = 16 * 1024 * 1024


class Raised(Exception):
    """The template itself refused the conversation."""


class TooLong(Exception):
    pass


class Generation(Extension):
    """`{% generation %}` marks the assistant's text for training; here only its body is written."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Sandbox(SandboxedEnvironment):
    """Refuses when an unsafe attribute is read, not only when it is used. A template may change lists: each request
    brings its own."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        raise SecurityError(f"it reads `{attribute}` of a {type(obj).__name__}")


def raise_exception(message: object) -> NoReturn:
    raise Raised(str(message))


def strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
    """JSON without HTML escapes, as the templates of the Hub expect it. What filters give becomes a list."""
    known = {key: more[key] for key in ("separators", "sort_keys") if key in more}
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, default=as_list, **known)


def as_list(value: object) -> list[Any]:
    if isinstance(value, Iterable) and not isinstance(value, jinja2.Undefined):
        return list(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def environment() -> Sandbox:
    made = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.globals.update(raise_exception=raise_exception, strftime_now=strftime_now)
    made.filters["tojson"] = tojson
    return made


def text_of(template: jinja2.Template, variables: Mapping[str, Any]) -> str:
    parts: list[str] = []
    room = OUTPUT_CHARS
    for part in template.generate(variables):
        room -= len(part)
        if room < 0:
            raise TooLong
        parts.append(part)
    return "".join(parts)


def render(template: jinja2.Template, request: dict[str, Any]) -> dict[str, Any]:
    more = {"messages": request["messages"], "add_generation_prompt": request["opening"]}
    if request["date_marks"]:
        start, end = request["date_marks"]
        more["strftime_now"] = lambda form: start + form + end
    return {"text": text_of(template, {**request["variables"], **more})}


def answer(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return work()
    except Raised as error:
        return {"error": "raised", "message": str(error)}
    except SecurityError as error:
        return {"error": "refused", "message": str(error)}
    except TemplateSyntaxError as error:
        return {"error": "syntax", "message": f"{error.message}, line {error.lineno}"}
    except TooLong:
        return {"error": "limit", "message": f"it writes more than {OUTPUT_CHARS:,} characters"}
    except MemoryError:
        return {"error": "limit", "message": f"it takes more than {MEMORY_BYTES // 1024**2} MB"}
    except Exception as error:  # any failure here is a failure of the template
        return {"error": "failed", "message": f"{type(error).__name__}: {error}"}


def limit_memory() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has none; macOS does not accept all of them
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def limit_cpu(seconds: float) -> None:
    """The system ends the process after `seconds` of processor time; 0 lifts the limit."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C stops an answer, not the renderer
    limit_memory()
    template: jinja2.Template | None = None
    for line in sys.stdin.buffer:
        request = json.loads(line)
        limit_cpu(request["cpu_s"])

        def work(request: dict[str, Any] = request) -> dict[str, Any]:
            nonlocal template
            if "template" in request:
                template = environment().from_string(request["template"])
                return {}
            assert template is not None
            return render(template, request)

        reply = json.dumps(answer(work))
        limit_cpu(0)
        sys.stdout.buffer.write(reply.encode("ascii") + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()

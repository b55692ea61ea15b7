"""Settings that can change between two answers, and `/set`, which changes them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeinfer.cli.options import count, count0, nonnegative, positive, sampling_from, share, stop_texts
from edgeinfer.cli.output import near
from edgeinfer.errors import UsageError
from edgeinfer.text import BOM
from edgeinfer.types import Sampling

if TYPE_CHECKING:
    from edgeinfer.runner.answer import AnswerOptions


@dataclass(frozen=True, slots=True)
class Settings:
    sampling: Sampling
    max_tokens: int
    stop: tuple[str, ...] = ()
    system: str = ""
    thinking: bool = True
    think_budget: int | None = None
    stats: bool = False

    @property
    def options(self) -> AnswerOptions:
        return {
            "sampling": self.sampling,
            "max_tokens": self.max_tokens,
            "stop": self.stop,
            "thinking": self.thinking,
            "think_budget": self.think_budget,
        }


def settings_from(args: argparse.Namespace, usual: Sampling) -> Settings:
    return Settings(
        sampling=sampling_from(args, usual),
        max_tokens=args.max_tokens,
        stop=tuple(args.stop),
        system=args.system.removeprefix(BOM),
        thinking=not args.no_thinking,
        think_budget=args.think_budget,
        stats=args.stats,
    )


def switch(text: str) -> bool:
    if text not in ("on", "off"):
        raise argparse.ArgumentTypeError(f"must be on or off; received `{text}`")
    return text == "on"


SAMPLING: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "temp": ("temperature", nonnegative),
    "top-k": ("top_k", count0),
    "top-p": ("top_p", share),
    "min-p": ("min_p", share),
    "repeat-penalty": ("repeat_penalty", positive),
    "seed": ("seed", count0),
}
TRUNCATIONS = ("top-k", "top-p", "min-p")
OTHERS: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "max-tokens": ("max_tokens", count),
    "think-budget": ("think_budget", count),
    "thinking": ("thinking", switch),
    "stats": ("stats", switch),
    "system": ("system", str),
    "stop": ("stop", stop_texts),
}


def changed(settings: Settings, name: str, value: str) -> Settings:
    """Raises UsageError for a name that is not a setting, with near names, and for a value that it cannot take."""
    name = {"temperature": "temp"}.get(name, name.replace("_", "-"))
    if name not in SAMPLING and name not in OTHERS:
        raise UsageError(
            f"there is no setting `{name}`", hint=near(name, [*SAMPLING, *OTHERS]) or "`/set` alone shows them"
        )
    field, parse = SAMPLING.get(name) or OTHERS[name]
    try:
        parsed = parse(value)
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"{name} {error}", hint="`/set` without a name shows all values") from None
    if name in TRUNCATIONS and settings.sampling.temperature == 0:
        raise UsageError(f"{name} has no effect at temperature 0", hint="`/set temp 1` first")
    if name in SAMPLING:
        return replace(settings, sampling=replace(settings.sampling, **{field: parsed}))  # type: ignore[arg-type]
    return replace(settings, **{field: parsed})  # type: ignore[arg-type]


def texts(settings: Settings) -> dict[str, str]:
    """Each setting's value in words, by name."""
    values = {name: getattr(settings.sampling, field) for name, (field, _) in SAMPLING.items()}
    values |= {name: getattr(settings, field) for name, (field, _) in OTHERS.items()}
    return {name: plain(value) for name, value in values.items()}


def lines(settings: Settings) -> list[str]:
    """Each setting with its value, as `/set` alone shows them."""
    return [f"  {name:<15} {text}" for name, text in texts(settings).items()]


def differences(settings: Settings, saved: Mapping[str, str]) -> list[str]:
    """Settings that differ from the saved ones, except the system prompt and the seed."""
    now = {name: text for name, text in texts(settings).items() if name not in ("system", "seed", "stats")}
    return [f"{name} was {saved[name]}, is {text}" for name, text in now.items() if saved.get(name, text) != text]


def plain(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None or value in ("", ()):
        return "none"
    return " ".join(map(repr, value)) if isinstance(value, tuple) else str(value)

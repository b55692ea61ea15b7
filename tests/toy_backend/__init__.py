"""A backend as a contributor would add one: this folder, and a line in `backends.FACTS`."""

from collections.abc import Mapping
from pathlib import Path

from edgeinfer.plan import Plan, Probe
from edgeinfer.protocols import Model
from tests.toy_backend.facts import FACTS

__all__ = ["BACKEND"]


class ToyBackend:
    """A `protocols.Backend` that computes with the reference."""

    name = FACTS.name

    def __init__(self) -> None:
        self.forgotten: list[Path] = []

    def probe(self) -> Probe:
        return Probe({"toy-engine": "1.2"})

    def report(self) -> Mapping[str, str]:
        return {"toys": "all in the box"}

    def forget(self, path: Path) -> None:
        self.forgotten.append(path)

    def before_load(self, plan: Plan, path: Path) -> str:
        return ""

    def load(self, plan: Plan, path: Path) -> Model:
        from edgeinfer.backends.reference import load_gguf

        return load_gguf(path, kv_type=plan.kv_type, exit_layer=plan.speculation.exit_layer)


BACKEND = ToyBackend()

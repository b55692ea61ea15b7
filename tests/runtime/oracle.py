"""What Python says with the same bundle: the decoder of this project on its backend `executorch`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeinfer.backends.executorch.bundle import load_bundle
from edgeinfer.decode.loop import Decoder
from edgeinfer.types import GREEDY, Prompt, Sampling
from edgeinfer.window import WindowPolicy


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer to token ids."""

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling = GREEDY


def answers(bundle: Path, policy: WindowPolicy, turns: Sequence[Turn]) -> list[list[int]]:
    """One conversation, decoded plainly: its cache is reused from turn to turn."""
    model = load_bundle(bundle, n_threads=1)
    decoder = Decoder(model, policy)
    said = [
        list(decoder.stream(Prompt(turn.prompt), turn.sampling, max_tokens=turn.max_tokens, stop_tokens=frozenset()))
        for turn in turns
    ]
    decoder.close()
    model.close()
    return said

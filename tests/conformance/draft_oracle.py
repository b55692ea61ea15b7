"""Rows of a taught draft in float64, without a cache: what each row sees is written out.

It shares only the file readers with the package.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.conformance.oracle import Array, model_states, norm, one_layer, read_model

TAP_EPS = 2.0**-7


def draft_rows(model: Path, draft: Path, tokens: list[int], chain: Sequence[int], seen: npt.NDArray[np.bool_]) -> Array:
    """[len(chain), V]: the row after each token of `chain`, of which the first is the token after `tokens`.

    `seen` [n, n] says what a position sees; n is at least all positions here. Tokens that the draft does not know are
    -inf.
    """
    tensors, shape = read_model(model)
    w, metadata = _read(draft)
    if metadata["kind"] == "exit":
        found = _exit_rows(tensors, shape, w, int(metadata["exit_layer"]), [*tokens, *chain], seen)
        return _ranked(tensors, w, found[-len(chain) :])
    taps = json.loads(metadata["taps"])
    start = len(tokens)
    states = model_states(tensors, shape, tokens, seen[:start, :start])
    tapped = np.concatenate(
        [states[tap] / np.sqrt((states[tap] ** 2).mean(-1, keepdims=True) + TAP_EPS) for tap in taps], -1
    )
    known = tapped @ w["taps"].T  # of positions 0 to start - 1
    inputs = [_input(tensors, w, token, known[at]) for at, token in enumerate([*tokens[1:], chain[0]])]
    rows = []
    for depth in range(len(chain)):
        n = start + 1 + depth
        at = np.arange(1, n)
        out = one_layer(np.array(inputs), w, at, seen[1:n, 1:n], shape)
        rows.append(norm(out[-1:], w["output_norm"])[0] @ tensors.get("output", tensors["token_embd"]).T)
        if depth + 1 < len(chain):
            inputs.append(_input(tensors, w, chain[depth + 1], out[-1]))
    return _ranked(tensors, w, np.array(rows))


def _exit_rows(
    tensors: dict[str, Array],
    shape: dict[str, Any],
    w: dict[str, Array],
    exit_layer: int,
    tokens: list[int],
    seen: npt.NDArray[np.bool_],
) -> Array:
    n = len(tokens)
    states = model_states(tensors, shape, tokens, seen[:n, :n])[exit_layer]
    out = one_layer(states, w, np.arange(n), seen[:n, :n], shape)
    return norm(out, w["output_norm"]) @ tensors.get("output", tensors["token_embd"]).T


def _ranked(tensors: dict[str, Array], w: dict[str, Array], rows: Array) -> Array:
    logits = np.full((len(rows), len(tensors["token_embd"])), -np.inf)
    logits[:, w["ranked_tokens"].astype(int)] = rows[:, w["ranked_tokens"].astype(int)]
    return logits


def _input(tensors: dict[str, Array], w: dict[str, Array], token: int, known: Array) -> Any:
    joined = np.concatenate(
        [norm(tensors["token_embd"][token][None], w["token_norm"]), norm(known[None], w["feature_norm"])], -1
    )
    return (joined @ w["join"].T)[0]


def _read(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    metadata = header.pop("__metadata__")
    kinds = {"F16": np.float16, "F32": np.float32, "I32": np.int32}
    tensors = {}
    for name, info in header.items():
        first, last = (8 + size + offset for offset in info["data_offsets"])
        values = np.frombuffer(data[first:last], kinds[info["dtype"]]).reshape(info["shape"])
        tensors[name.removesuffix(".weight")] = values.astype(np.float64)
    return tensors, metadata

"""The two programs that are compared: ours in our engine, and one of `export_llm` in ExecuTorch's Python runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from edgeinfer.types import KvType, Tokens
from edgeinfer.window import WindowPolicy

CHUNK = 128  # tokens of one forward, at most
POLICY = WindowPolicy(window=1280, sink=128, block=CHUNK, limit=1408)  # nothing is evicted at the measured positions
_VOCABULARY = 250  # ids below this; every model has them


def filler(n_tokens: int) -> list[int]:
    """A text of no meaning."""
    return [(7 * index) % _VOCABULARY for index in range(n_tokens)]


class Forward(Protocol):
    """One forward of `tokens` at position `start`; the logits of the last `n_rows` are computed."""

    def __call__(self, tokens: Tokens, start: int, n_rows: int) -> None: ...


def ours(folder: Path, n_threads: int, kv_type: KvType | None = None) -> Forward:
    """`kv_type` is that of the bundle if it is None. Raises what opening a bundle raises."""
    from edgeinfer.backends.executorch.bundle import packed_cache
    from edgeinfer.backends.executorch.engine import Program
    from edgeinfer.formats.bundle import check_bundle

    bundle = check_bundle(folder)
    kv_type = kv_type or bundle.manifest.kv_type
    program = Program(bundle.program, n_threads=n_threads, packed_cache=packed_cache(bundle), kv_type=kv_type)
    rings = program.new_rings(POLICY)

    def forward(tokens: Tokens, start: int, n_rows: int) -> None:
        rings.forward(tokens, start, n_rows)

    return forward


def stock(program: Path, n_threads: int) -> Forward:
    """Always gives the logits of the last row only. Raises ImportError without torch."""
    import executorch.extension.llm.custom_ops.custom_ops
    import executorch.kernels.quantized  # noqa: F401  # registers the embedding of 8-bit weights
    import torch
    from executorch.extension.pybindings import portable_lib

    portable_lib._unsafe_reset_threadpool(n_threads)
    module: Any = portable_lib._load_for_executorch(str(program))

    def forward(tokens: Tokens, start: int, n_rows: int) -> None:
        del n_rows
        module.forward((torch.tensor([tokens]), torch.tensor([start])))

    return forward

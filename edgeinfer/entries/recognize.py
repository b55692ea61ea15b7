"""Recognizes a file of a catalog model by its shape, and its size or name, whatever the file calls itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from edgeinfer.catalog.entry import ModelEntry
from edgeinfer.shape import ModelShape

__all__ = ["recognized"]

# Words in the names of derived models, which have the shape and name of another model.
_DERIVED = re.compile(
    r"distill|merge|fine-?tun|abliterat|uncensor|heretic|roleplay|coder|math|vision|guard|embed|rerank|reward|"
    r"hermes|dolphin|thinking|reasoning|\br1\b|\b2507\b|\bbase\b|\bvl\b|\bft\b|\blora\b|\bmed\b",
    re.IGNORECASE,
)


def recognized(entry: ModelEntry, known: Iterable[ModelEntry], names: Sequence[str]) -> ModelEntry:
    """`entry` with what the catalog knows of its model: title, license, sampling, thinking, rank.

    `names` are what the file and its metadata call it. The shapes must be equal, and the file must have the size of one
    of the catalog's files, or a name with the catalog's name in it that is no derived model's.
    """
    derived = any(_DERIVED.search(name.replace("_", "-")) for name in names)
    for model in known:
        if _essence(model.shape) != _essence(entry.shape):
            continue
        sizes = {file.n_bytes for file in model.artifacts if file.exact}
        called = any(_squeezed(model.name) in _squeezed(name) for name in names)
        if entry.artifacts[0].n_bytes in sizes or (called and not derived):
            return replace(
                entry,
                title=model.title,
                license=model.license,
                sampling=model.sampling,
                thinking=model.thinking or entry.thinking,
                rank=model.rank,
                rank_source=model.rank_source,
                notes=model.notes,
            )
    return entry


def _essence(shape: ModelShape) -> tuple[object, ...]:
    """The parts of a shape that all files of one model share, in every format and tier."""
    kv = frozenset((group.n_kv_heads, group.head_dim) for group in shape.kv)
    return shape.n_layers, shape.hidden, shape.n_heads, shape.n_ffn, shape.n_vocab, kv


def _squeezed(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())

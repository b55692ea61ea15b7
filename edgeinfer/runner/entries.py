"""Models that are in no catalogue: an entry made from what the file itself says."""

from __future__ import annotations

from pathlib import Path

from edgeinfer.catalog.entry import Artifact, LayerKv, ModelEntry, ModelShape
from edgeinfer.errors import UsageError
from edgeinfer.formats import check_artifact, facts_from_gguf
from edgeinfer.formats.gguf_header import GgufHeader
from edgeinfer.formats.shape import GgufFacts, GgufShape
from edgeinfer.types import Sampling

RANK_SOURCE = "not ranked: it is in no catalogue"
USUAL = Sampling(temperature=0.7, top_p=0.95, top_k=40)  # where a file gives no advice
THINK = ("<think>", "</think>")


def entry_of_path(path: Path) -> ModelEntry:
    """The entry of a local `.gguf` file. Raises ArtifactBad for a file that is not what it says."""
    header = check_artifact(path)
    if not isinstance(header, GgufHeader):
        raise UsageError(f"`{path}` is a folder", hint="name a .gguf file, or `org/repo` on the hub")
    facts = facts_from_gguf(header)
    artifact = Artifact("gguf", facts.tier or "unknown", path.stat().st_size, repo="", file=str(path.resolve()))
    return entry_of_header(path.stem, header, (artifact,))


def entry_of_header(name: str, header: GgufHeader, artifacts: tuple[Artifact, ...]) -> ModelEntry:
    facts = facts_from_gguf(header)
    return ModelEntry(
        name=name,
        title=title_of(facts) or name,
        license=facts.license or "not stated",
        gated=False,
        rank=0,
        rank_source=RANK_SOURCE,
        shape=model_shape(facts.shape),
        sampling=USUAL,
        artifacts=artifacts,
        exit_layer=facts.exit_layer,
        thinking=THINK if thinks(header) else None,
    )


def title_of(facts: GgufFacts) -> str:
    """The file's own name with its true base model, in one printable line."""
    base = facts.base_model.rpartition("/")[2]
    named = f"{facts.name} (from {base})" if base and base not in facts.name else facts.name
    return "".join(character for character in named if character.isprintable())[:120]


def thinks(header: GgufHeader) -> bool:
    template = header.metadata.get("tokenizer.chat_template", "")
    return isinstance(template, str) and THINK[1] in template


def model_shape(shape: GgufShape) -> ModelShape:
    return ModelShape(
        architecture=shape.architecture,
        n_layers=shape.n_layers,
        hidden=shape.hidden,
        n_heads=shape.n_heads,
        n_ffn=shape.n_ffn,
        n_vocab=shape.n_vocab,
        limit=shape.limit,
        kv=tuple(LayerKv(kv.n_layers, kv.n_kv_heads, kv.head_dim, kv.window) for kv in shape.kv),
        n_params=shape.n_params,
        n_active_params=shape.n_active_params,
        short_limit=shape.short_limit,
    )

"""What a GGUF header says about its model: shape, parameters, tier, license. The file has passed `check_model`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgeinfer.formats.gguf_checks import MAX_POSITIONS
from edgeinfer.formats.gguf_header import GgufArray, GgufHeader
from edgeinfer.formats.gguf_types import FILE_TYPES
from edgeinfer.shape import LayerKv, ModelShape

__all__ = ["GgufFacts", "facts_from_gguf", "head_of", "read_by_type", "shape_from_gguf"]

# Every n-th layer attends to everything, where the file does not list the layers (src/models/ of llama.cpp).
_GLOBAL_EVERY = {"gemma2": 2, "gemma3": 6, "gpt-oss": 2}


@dataclass(frozen=True, slots=True)
class GgufFacts:
    """What `show` prints. Texts are the file's own claims, or ""."""

    name: str
    base_model: str
    license: str
    tier: str
    shape: ModelShape
    n_bytes: int
    has_template: bool
    tokenizer: str
    exit_layer: int | None
    tensors: tuple[tuple[str, int], ...]  # `read_by_type`
    head: tuple[str, int]  # `head_of`


def facts_from_gguf(header: GgufHeader) -> GgufFacts:
    def text(key: str) -> str:
        value = header.metadata.get(key, "")
        return value if isinstance(value, str) else ""

    file_type, exit_layer = header.metadata.get("general.file_type"), header.metadata.get("edgeinfer.exit_layer")
    kinds = (text("tokenizer.ggml.model"), text("tokenizer.ggml.pre"))
    return GgufFacts(
        name=text("general.name"),
        base_model=text("general.base_model.0.repo_url") or text("general.base_model.0.name"),
        license=text("general.license"),
        tier=FILE_TYPES.get(file_type, "") if isinstance(file_type, int) else "",
        shape=shape_from_gguf(header),
        n_bytes=header.file_bytes,
        has_template=bool(text("tokenizer.chat_template")),
        tokenizer=" ".join(kind for kind in kinds if kind),
        exit_layer=exit_layer if isinstance(exit_layer, int) else None,
        tensors=tuple(read_by_type(header).items()),
        head=head_of(header),
    )


def shape_from_gguf(header: GgufHeader) -> ModelShape:
    """The shape that determines memory and speed. Layers that share the K/V of another layer are in no `kv` group."""
    architecture = str(header.metadata["general.architecture"])

    def number(key: str, default: int = 0) -> int:
        value = header.metadata.get(f"{architecture}.{key}", default)
        numbers = value.values if isinstance(value, GgufArray) else (value,)
        return max((int(n) for n in numbers if isinstance(n, int)), default=default)

    sizes = {tensor.name: math.prod(tensor.shape) for tensor in header.tensors}
    experts = _share_of_experts(header)
    long_factors = any(name.startswith("rope_factors_long") for name in sizes)
    return ModelShape(
        architecture=architecture,
        n_layers=number("block_count"),
        hidden=number("embedding_length"),
        n_heads=number("attention.head_count"),
        n_ffn=number("feed_forward_length"),
        n_vocab=header.by_name["token_embd.weight"].shape[1],
        limit=min(number("context_length"), MAX_POSITIONS),
        kv=_kv_groups(header, architecture),
        n_params=sum(sizes.values()),
        n_active_params=_active(sizes, experts),
        short_limit=number("rope.scaling.original_context_length") if long_factors else 0,
    )


def read_by_type(header: GgufHeader) -> Mapping[str, int]:
    """Bytes of the matrices that one token is multiplied by, by tensor type, most bytes first."""
    untied, experts = "output.weight" in header.by_name, _share_of_experts(header)
    counted: Counter[str] = Counter()
    for tensor in header.tensors:
        if len(tensor.shape) > 1:
            counted[tensor.type.name] += _read(tensor.name, tensor.n_bytes, experts, untied=untied)
    return {name: n_bytes for name, n_bytes in counted.most_common() if n_bytes}


def head_of(header: GgufHeader) -> tuple[str, int]:
    """Type and bytes of the matrix that gives the logits; often it is the embedding."""
    head = header.by_name.get("output.weight") or header.by_name["token_embd.weight"]
    return head.type.name, head.n_bytes


def _active(sizes: dict[str, int], experts: float) -> int:
    """Parameters that one token reads."""
    untied = "output.weight" in sizes
    return sum(_read(name, n, experts, untied=untied) for name, n in sizes.items())


def _read(name: str, n: int, experts: float, *, untied: bool) -> int:
    """How many of the `n` values or bytes of a tensor one token reads: one row of a lookup table, and the experts that
    run."""
    if name.startswith("per_layer_token_embd") or (untied and name == "token_embd.weight"):
        return 0
    return int(n * experts) if "_exps." in name else n


def _share_of_experts(header: GgufHeader) -> float:
    architecture = header.metadata.get("general.architecture")
    used, count = (
        _whole(header.metadata.get(f"{architecture}.{key}"), 0) for key in ("expert_used_count", "expert_count")
    )
    return used / max(1, count)


def _kv_groups(header: GgufHeader, architecture: str) -> tuple[LayerKv, ...]:
    """Groups in the order of their first layer."""

    def value(key: str) -> object:
        return header.metadata.get(f"{architecture}.attention.{key}")

    n_layers = _whole(header.metadata[f"{architecture}.block_count"], 0)
    heads = _each(value("head_count"), n_layers, 0)
    kv_heads = _each(value("head_count_kv"), n_layers, 0) if value("head_count_kv") is not None else heads
    window, sliding = (
        _whole(value("sliding_window"), 0),
        _sliding(value("sliding_window_pattern"), architecture, n_layers),
    )
    hidden = _whole(header.metadata[f"{architecture}.embedding_length"], 0)
    default = hidden // max(1, *heads)
    groups: dict[tuple[int, int, int], int] = {}
    for layer in range(n_layers - _whole(value("shared_kv_layers"), 0)):
        own = "_swa" if sliding[layer] else ""
        lengths = [_whole(value(f"{w}_length{own}"), _whole(value(f"{w}_length"), default)) for w in ("key", "value")]
        key = (kv_heads[layer], -(-sum(lengths) // 2), window if sliding[layer] else 0)
        if kv_heads[layer]:
            groups[key] = groups.get(key, 0) + 1
    return tuple(LayerKv(n, *key) for key, n in groups.items())


def _sliding(pattern: object, architecture: str, n_layers: int) -> list[bool]:
    """Which layers have a sliding window. An unknown pattern counts as full attention, which takes more memory."""
    if isinstance(pattern, GgufArray) and len(pattern) >= n_layers:
        return [bool(flag) for flag in pattern][:n_layers]
    every = _whole(pattern, _GLOBAL_EVERY.get(architecture, 1))
    return [bool((layer + 1) % max(1, every)) for layer in range(n_layers)]


def _each(value: object, n_layers: int, default: int) -> list[int]:
    numbers: Iterable[object] = value if isinstance(value, GgufArray) else [value] * n_layers
    return [_whole(number, default) for number in numbers]


def _whole(value: object, default: int) -> int:
    return value if isinstance(value, int) else default

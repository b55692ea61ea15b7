"""Checks the values of a GGUF header: the numbers that engines divide by, multiply and index with.

Each check is for a value that has made an engine divide by zero, read out of bounds, or abort.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from edgeinfer.errors import ArtifactError
from edgeinfer.formats.gguf_header import GgufArray, GgufHeader
from edgeinfer.formats.gguf_oddities import ODDITIES, Odd, report
from edgeinfer.formats.gguf_types import STRING

__all__ = ["MAX_POSITIONS", "check_model"]

MAX_LAYERS = 1024  # llama.cpp's LLAMA_MAX_LAYERS is 512
MAX_WIDTH = 1 << 20
MAX_HEADS = 4096
MAX_HEAD_DIM = 4096
MAX_POSITIONS = 1 << 30
MAX_EXPERTS = 4096

_ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_BLOCK = re.compile(r"blk\.(\d{1,9})\.")
_TOKEN_ID = re.compile(r"tokenizer\.ggml\.\w+_token_id")
_HELPERS = {  # by general.architecture or general.type
    "clip": "a projector of images or sound",
    "mmproj": "a projector of images or sound",
    "imatrix": "an importance matrix",
    "adapter": "an adapter (LoRA)",
}
_NO_TOKENIZERS = ("none", "no_vocab")
_RECURRENT = ("ssm.state_size", "wkv.head_size")  # layers without heads
_LLAMA_LIKE = frozenset({"llama", "qwen2", "qwen3"})
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")


def check_model(header: GgufHeader, name: str) -> None:
    """Raise ArtifactError, with the key and its value, if `header` cannot belong to a working language model."""
    facts = _Facts(header, name)
    _check_purpose(facts)
    if not header.tensors:
        raise facts.bad("the file holds no tensors")
    _check_attention(facts)
    _check_experts(facts)
    _check_vocabulary(facts)
    _check_types(facts)
    _check_blocks(facts)


class _Facts:
    """The header's values by the architecture's own keys."""

    def __init__(self, header: GgufHeader, name: str) -> None:
        self.header, self.name = header, name
        architecture = header.metadata.get("general.architecture")
        if not isinstance(architecture, str) or not _ARCHITECTURE.fullmatch(architecture):
            raise self.bad(f"general.architecture is {_shown(architecture)}")
        self.architecture = architecture

    def bad(self, what: str) -> ArtifactError:
        return ArtifactError(f"{self.name}: {what[:300]}", hint=ODDITIES[Odd.DAMAGED].hint)

    def report(self, odd: Odd, what: str) -> None:
        report(odd, f"{self.name}: {what[:300]}")

    def has(self, key: str) -> bool:
        return f"{self.architecture}.{key}" in self.header.metadata

    def whole(self, key: str, low: int, high: int) -> int:
        """The integer at the full `key`. Raises ArtifactError outside low..high, and when it is missing."""
        value = self.header.metadata.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.bad(f"{key} is {_shown(value)}; {low} to {high} is possible")
        return value

    def own(self, key: str, low: int, high: int) -> int:
        return self.whole(f"{self.architecture}.{key}", low, high)

    def per_layer(self, key: str, n_layers: int, low: int, high: int) -> tuple[int, ...]:
        """The value for each layer: one number for all, or an array of one a layer."""
        value = self.header.metadata.get(f"{self.architecture}.{key}")
        if not isinstance(value, GgufArray):
            return (self.own(key, low, high),) * n_layers
        if len(value) < n_layers or len(value) > MAX_LAYERS:
            raise self.bad(f"{self.architecture}.{key} has {len(value)} elements for {n_layers} layers")
        numbers = tuple(number for number in value if isinstance(number, int) and low <= number <= high)
        if len(numbers) != len(value):
            raise self.bad(f"{self.architecture}.{key} has elements outside {low} to {high}")
        return numbers[:n_layers]

    def heads(self, n_layers: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Query heads and KV heads of each layer; 0 in a layer without attention."""
        queries = self.per_layer("attention.head_count", n_layers, 0, MAX_HEADS)
        if not self.has("attention.head_count_kv"):
            return queries, queries
        return queries, self.per_layer("attention.head_count_kv", n_layers, 0, MAX_HEADS)

    def head_dim(self, what: str, default: int) -> int:
        key = f"attention.{what}_length"
        return self.own(key, 1, MAX_HEAD_DIM) if self.has(key) else default


def _check_purpose(facts: _Facts) -> None:
    """Refuse a file that its header describes as an accessory of a model."""
    kind = facts.header.metadata.get("general.type", "model")
    helper = _HELPERS.get(facts.architecture) or (
        f"of the kind {_shown(kind)}" if kind in ("adapter", "mmproj") else ""
    )
    if helper:
        facts.report(Odd.NO_LANGUAGE_MODEL, f"this is not a language model but {helper}")


def _check_attention(facts: _Facts) -> None:
    n_layers = facts.own("block_count", 1, MAX_LAYERS)
    hidden = facts.own("embedding_length", 1, MAX_WIDTH)
    n_positions = facts.own("context_length", 0, 1 << 32) if facts.has("context_length") else 0
    if not n_positions:
        facts.report(Odd.NO_POSITIONS, f"{facts.architecture}.context_length is 0 or missing")
    if n_positions > MAX_POSITIONS:
        facts.report(Odd.MANY_POSITIONS, f"context_length is {n_positions}")
    if facts.has("feed_forward_length"):
        facts.per_layer("feed_forward_length", n_layers, 0, MAX_WIDTH)
    _check_floats(facts)
    for key, most in (("sliding_window", 1 << 32), ("shared_kv_layers", n_layers - 1)):
        if facts.has(f"attention.{key}"):
            facts.own(f"attention.{key}", 0, most)
    for key in ("key_length_swa", "value_length_swa"):
        if facts.has(f"attention.{key}"):
            facts.own(f"attention.{key}", 1, MAX_HEAD_DIM)
    if not facts.has("attention.head_count"):
        if facts.architecture in _LLAMA_LIKE:
            facts.own("attention.head_count", 1, MAX_HEADS)
        return
    heads, kv_heads = facts.heads(n_layers)
    for layer, (n, n_kv) in enumerate(zip(heads, kv_heads, strict=True)):
        if n_kv and n % n_kv:
            raise facts.bad(f"layer {layer} has {n} heads over {n_kv} KV heads")
    most = max(heads)
    if not most and any(facts.has(key) for key in _RECURRENT):
        return
    if not most:
        raise facts.bad(f"{facts.architecture}.attention.head_count is 0 in every layer")
    for key in ("attention.key_length", "attention.value_length"):
        if facts.has(key):
            facts.own(key, 1, MAX_HEAD_DIM)
        elif hidden % most or hidden // most > MAX_HEAD_DIM:
            raise facts.bad(f"embedding_length {hidden} does not divide into {most} heads, and {key} is not given")
    if facts.has("rope.dimension_count"):
        head_dim = (
            facts.own("attention.key_length", 1, MAX_HEAD_DIM) if facts.has("attention.key_length") else hidden // most
        )
        rotated = facts.own("rope.dimension_count", 0, MAX_HEAD_DIM)
        if rotated > head_dim or rotated % 2:
            raise facts.bad(f"rope.dimension_count is {rotated}, of heads of {head_dim}")


def _check_floats(facts: _Facts) -> None:
    for key, value in facts.header.metadata.items():
        if isinstance(value, float) and not math.isfinite(value):
            read = key.startswith(f"{facts.architecture}.")
            facts.report(Odd.NOISE if read else Odd.UNREAD_FLOAT, f"{key} is {value}")
        if isinstance(value, float) and key.endswith("epsilon") and value < 0:
            raise facts.bad(f"{key} is {value}; it must not be below 0")
    scaling = facts.header.metadata.get(f"{facts.architecture}.rope.scaling.type", "none")
    if scaling not in _ROPE_SCALINGS:
        raise facts.bad(f"{facts.architecture}.rope.scaling.type is {_shown(scaling)}")
    base = facts.header.metadata.get(f"{facts.architecture}.rope.freq_base", 1.0)
    if not isinstance(base, float) or base <= 0:
        facts.report(Odd.NOISE, f"{facts.architecture}.rope.freq_base is {_shown(base)}; it must be above 0")


def _check_experts(facts: _Facts) -> None:
    if not facts.has("expert_count"):
        return
    n_experts = facts.own("expert_count", 0, MAX_EXPERTS)
    if facts.has("expert_used_count"):
        facts.own("expert_used_count", 0 if not n_experts else 1, n_experts)


def _check_vocabulary(facts: _Facts) -> None:
    metadata, tensors = facts.header.metadata, facts.header.by_name
    embedding = tensors.get("token_embd.weight")
    if embedding is None:
        raise facts.bad("the tensor token_embd.weight is missing")
    hidden = facts.own("embedding_length", 1, MAX_WIDTH)
    if len(embedding.shape) != 2 or embedding.shape[0] != hidden:
        raise facts.bad(f"token_embd.weight has shape {list(embedding.shape)}; embedding_length is {hidden}")
    n_rows = embedding.shape[1]
    if facts.has("vocab_size") and (n := facts.own("vocab_size", 0, 1 << 63)) != n_rows:
        facts.report(Odd.VOCAB_SIZE, f"vocab_size is {n}, but token_embd.weight has {n_rows} rows")
    tokens = metadata.get("tokenizer.ggml.tokens")
    if metadata.get("tokenizer.ggml.model") in _NO_TOKENIZERS:
        facts.report(Odd.NO_TOKENIZER, "the file says that it has no tokenizer (tokenizer.ggml.model)")
    if not isinstance(tokens, GgufArray) or tokens.kind != STRING:
        facts.report(Odd.NO_TOKENIZER, "the file has no tokenizer (tokenizer.ggml.tokens)")
        return
    if len(tokens) != n_rows:
        raise facts.bad(f"the tokenizer has {len(tokens)} tokens, but token_embd.weight has {n_rows} rows")
    if twice := tokens.twice():
        raise facts.bad(f"the token {twice[:60]!r} appears twice")
    for key in ("token_type", "scores"):
        array = metadata.get(f"tokenizer.ggml.{key}")
        if array is not None and (not isinstance(array, GgufArray) or len(array) < n_rows or array.kind == STRING):
            raise facts.bad(f"tokenizer.ggml.{key} does not have one number for each of {n_rows} tokens")
        if isinstance(array, GgufArray) and len(array) > n_rows:
            facts.report(Odd.LONG_ARRAY, f"tokenizer.ggml.{key} has {len(array)} elements for {n_rows} tokens")
    for key in filter(_TOKEN_ID.fullmatch, metadata):
        if (token := facts.whole(key, 0, (1 << 32) - 1)) >= n_rows:
            facts.report(Odd.TOKEN_ID, f"{key} is {token}, of {n_rows} tokens")


def _check_types(facts: _Facts) -> None:
    """Vectors must be F32, and matrices must not be plain integers: with others the engine aborts at the first
    product."""
    for tensor in facts.header.tensors:
        if tensor.name.endswith(("norm.weight", ".bias")) and tensor.type.name != "F32":
            facts.report(Odd.NORM_TYPE, f"the tensor {tensor.name} is of type {tensor.type.name}; it must be F32")
        if tensor.name.endswith(".weight") and tensor.type.name in ("I8", "I16", "I32", "I64", "F64"):
            raise facts.bad(f"the tensor {tensor.name} is of type {tensor.type.name}, which no weight is")


def _check_blocks(facts: _Facts) -> None:
    n_layers = facts.own("block_count", 1, MAX_LAYERS)
    found = {int(match[1]) for tensor in facts.header.tensors if (match := _BLOCK.match(tensor.name))}
    if missing := set(range(n_layers)) - found:
        raise facts.bad(f"block_count is {n_layers}, but layer {min(missing)} has no tensors")
    if facts.architecture in _LLAMA_LIKE:
        _check_llama_tensors(facts, n_layers)


def _check_llama_tensors(facts: _Facts, n_layers: int) -> None:
    tensors, hidden = facts.header.by_name, facts.own("embedding_length", 1, MAX_WIDTH)
    heads, kv_heads = facts.heads(n_layers)
    for layer, (n, n_kv) in enumerate(zip(heads, kv_heads, strict=True)):
        if not n or not n_kv:
            raise facts.bad(f"layer {layer} has {n} heads over {n_kv} KV heads")
        key_dim, value_dim = facts.head_dim("key", hidden // n), facts.head_dim("value", hidden // n)
        for name, shape in (
            ("attn_norm", (hidden,)),
            ("attn_q", (hidden, n * key_dim)),
            ("attn_k", (hidden, n_kv * key_dim)),
            ("attn_v", (hidden, n_kv * value_dim)),
            ("attn_output", (n * value_dim, hidden)),
            ("ffn_norm", (hidden,)),
        ):
            _expect(facts, f"blk.{layer}.{name}.weight", shape)
    _expect(facts, "output_norm.weight", (hidden,))
    if "output.weight" in tensors:
        _expect(facts, "output.weight", tensors["token_embd.weight"].shape)


def _expect(facts: _Facts, name: str, shape: Iterable[int]) -> None:
    tensor = facts.header.by_name.get(name)
    if tensor is None:
        raise facts.bad(f"the tensor {name} is missing")
    if tensor.shape != tuple(shape):
        raise facts.bad(f"the tensor {name} has shape {list(tensor.shape)}; its architecture asks for {list(shape)}")


def _shown(value: object) -> str:
    if value is None:
        return "missing"
    return f"an array of {len(value)}" if isinstance(value, GgufArray) else repr(value)[:60]

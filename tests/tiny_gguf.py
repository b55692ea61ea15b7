"""Tiny random models as GGUF files, written when a test needs them: the same seed gives the same bytes.

A Llama of 4 layers by default, with a byte-level BPE tokenizer, ChatML and `edgeinfer.exit_layer = 2`. The late layers
are damped (`late_gain`), so that the exit agrees with the last layer often but not always.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

Architecture = Literal["llama", "qwen3", "gemma3"]
Tier = Literal["F32", "F16", "Q8_0", "Q4_1", "Q4_0"]

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END = 2  # <|im_end|>
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_TEXT = "the rain in the train station is the same rain as in the other stations, and there the rain stays the same"


@dataclass(frozen=True)
class Tiny:
    """Widths are multiples of 32, so that every tier and KV type fits. V is 3 + 256 + n_merges, padded to 32."""

    architecture: Architecture = "llama"
    tier: Tier = "F32"
    seed: int = 0
    n_layers: int = 4
    hidden: int = 128
    n_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int = 32
    n_ffn: int = 256
    n_merges: int = 29
    limit: int = 2048
    tied: bool = False
    exit_layer: int | None = 2
    late_gain: float = 0.5
    positive_scales: bool = False  # of all Q4_0 blocks: XNNPACK takes no negative ones
    own_window: int = 0  # gemma3: of five layers in six


def write_tiny(path: Path, tiny: Tiny | None = None) -> Path:
    """Write the model to `path` and return it."""
    import gguf

    tiny = tiny or Tiny()
    writer = gguf.GGUFWriter(path, tiny.architecture)
    _add_shape(writer, tiny)
    n_vocab = _add_tokenizer(writer, tiny.n_merges)
    kind = gguf.GGMLQuantizationType[tiny.tier]
    for name, values in _tensors(tiny, n_vocab):
        if values.ndim == 1 or tiny.tier == "F32":
            writer.add_tensor(name, values)
        else:
            values = _with_negative_extremes(values) if tiny.positive_scales else values
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _with_negative_extremes(values: Any) -> Any:
    """Q4_0 gives the scale the opposite sign of the value of largest magnitude in a block of 32."""
    blocks = values.reshape(-1, 32)
    extremes = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)
    return (blocks * -np.sign(extremes)).reshape(values.shape).astype(np.float32)


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each byte, in the order of the bytes."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    stand_ins = iter(range(256, 512))
    return [chr(byte) if byte in kept else chr(next(stand_ins)) for byte in range(256)]


def _add_shape(writer: Any, tiny: Tiny) -> None:
    import gguf

    writer.add_name(f"tiny {tiny.architecture} {tiny.seed}")
    writer.add_file_type(
        {"F32": 0, "F16": gguf.LlamaFileType.MOSTLY_F16, "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}.get(
            tiny.tier, gguf.LlamaFileType.MOSTLY_Q4_0
        )
    )
    writer.add_context_length(tiny.limit)
    writer.add_embedding_length(tiny.hidden)
    writer.add_block_count(tiny.n_layers)
    writer.add_feed_forward_length(tiny.n_ffn)
    writer.add_head_count(tiny.n_heads)
    writer.add_head_count_kv(tiny.n_kv_heads)
    writer.add_key_length(tiny.head_dim)
    writer.add_value_length(tiny.head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    if tiny.architecture != "gemma3":
        writer.add_rope_dimension_count(tiny.head_dim)
    else:
        writer.add_sliding_window(tiny.own_window)
    if tiny.exit_layer is not None:
        writer.add_uint32("edgeinfer.exit_layer", tiny.exit_layer)


def _add_tokenizer(writer: Any, n_merges: int) -> int:
    import gguf

    merges = _train(n_merges)
    tokens = [*SPECIAL, *byte_alphabet(), *(left + right for left, right in merges)]
    types = [gguf.TokenType.CONTROL] * len(SPECIAL) + [gguf.TokenType.NORMAL] * (len(tokens) - len(SPECIAL))
    while len(tokens) % 32:
        tokens.append(f"<|unused{len(tokens)}|>")
        types.append(gguf.TokenType.UNUSED)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([f"{left} {right}" for left, right in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(END)
    writer.add_eot_token_id(END)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)
    return len(tokens)


def _train(n_merges: int) -> list[tuple[str, str]]:
    """The most frequent pairs of a sentence, within words as the tokenizer splits them."""
    words = [list(word) for word in _TEXT.replace(",", " ,").replace(" ", " \u0120").split(" ") if word]
    merges: list[tuple[str, str]] = []
    while len(merges) < n_merges:
        pairs = Counter(pair for word in words for pair in itertools.pairwise(word))
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = [_merged(word, best) for word in words]
    return merges


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for symbol in word:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return out


def _tensors(tiny: Tiny, n_vocab: int) -> Iterator[tuple[str, Any]]:
    rng = np.random.default_rng(tiny.seed)
    gemma = tiny.architecture == "gemma3"

    def matrix(n_out: int, n_in: int, gain: float = 1.0) -> Any:
        return (rng.standard_normal((n_out, n_in)) * gain / np.sqrt(n_in)).astype(np.float32)

    def norm(n: int) -> Any:
        return (1 + 0.1 * rng.standard_normal(n)).astype(np.float32)

    queries, keys = tiny.n_heads * tiny.head_dim, tiny.n_kv_heads * tiny.head_dim
    yield "token_embd.weight", matrix(n_vocab, tiny.hidden, np.sqrt(tiny.hidden))
    for layer in range(tiny.n_layers):
        at = f"blk.{layer}."
        gain = tiny.late_gain if layer >= (tiny.exit_layer or tiny.n_layers) else 1.0
        yield at + "attn_norm.weight", norm(tiny.hidden)
        yield at + "attn_q.weight", matrix(queries, tiny.hidden, 2.0)  # sharp attention: a missing key shows
        yield at + "attn_k.weight", matrix(keys, tiny.hidden, 2.0)
        yield at + "attn_v.weight", matrix(keys, tiny.hidden, 2.0)
        yield at + "attn_output.weight", matrix(tiny.hidden, queries, gain)
        if tiny.architecture in ("qwen3", "gemma3"):
            yield at + "attn_q_norm.weight", norm(tiny.head_dim) * 2
            yield at + "attn_k_norm.weight", norm(tiny.head_dim)
        if gemma:
            yield at + "post_attention_norm.weight", norm(tiny.hidden)
            yield at + "post_ffw_norm.weight", norm(tiny.hidden)
        yield at + "ffn_norm.weight", norm(tiny.hidden)
        yield at + "ffn_gate.weight", matrix(tiny.n_ffn, tiny.hidden)
        yield at + "ffn_up.weight", matrix(tiny.n_ffn, tiny.hidden)
        yield at + "ffn_down.weight", matrix(tiny.hidden, tiny.n_ffn, gain)
    yield "output_norm.weight", norm(tiny.hidden)
    if not tiny.tied:
        yield "output.weight", matrix(n_vocab, tiny.hidden, 3.0)  # logits of standard deviation 3


if __name__ == "__main__":  # python -m tests.tiny_gguf tiny.gguf; then python -m benchmarks window --model tiny.gguf
    import sys

    write_tiny(Path(sys.argv[1]), Tiny(limit=8192, hidden=128, n_heads=2, n_kv_heads=1, head_dim=64))

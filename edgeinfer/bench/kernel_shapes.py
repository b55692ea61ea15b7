"""Shapes of real models at which the Metal kernels are timed."""

from __future__ import annotations

from dataclasses import dataclass

SINK = 128
WINDOWS = (4096, 32768)


@dataclass(frozen=True, slots=True)
class TimedShape:
    name: str
    n_layers: int
    width: int
    ffn: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    n_vocab: int


# config.json of meta-llama/Llama-3.2-1B, Llama-3.2-3B and Qwen/Qwen3-8B
SHAPES = (
    TimedShape("Llama-3.2-1B", 16, 2048, 8192, 32, 8, 64, 128256),
    TimedShape("Llama-3.2-3B", 28, 3072, 8192, 24, 8, 128, 128256),
    TimedShape("Qwen3-8B", 36, 4096, 12288, 32, 8, 128, 151936),
)

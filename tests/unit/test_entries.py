"""Catalog entries made from files that are in no catalog."""

import json
from pathlib import Path

import pytest

from edgeinfer.catalog.entry import Artifact, LayerKv
from edgeinfer.entries.files import USUAL, entry_of_path, name_of
from edgeinfer.entries.folders import bits_of, entry_of_config, read_config, tier_of
from edgeinfer.errors import ArtifactError
from tests.tiny_gguf import Tiny, write_tiny

CONFIG = {
    "model_type": "qwen3",
    "num_hidden_layers": 28,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "quantization": {"group_size": 64, "bits": 4},
}
FILE = Artifact("mlx", "mlx-4bit-g64", 335_000_000, repo="", file="/models/qwen3")


def test_an_entry_is_made_from_the_header_of_a_local_file(tmp_path: Path) -> None:
    entry = entry_of_path(write_tiny(tmp_path / "Some Model.gguf", Tiny(tier="Q8_0")))
    assert [artifact.backend for artifact in entry.artifacts] == ["gguf", "mlx", "reference"]
    assert {artifact.tier for artifact in entry.artifacts} == {"Q8_0"}
    assert entry.shape.kv == (LayerKv(4, 2, 32),)
    assert entry.exit_layer == 2
    assert entry.thinking is None


def test_an_architecture_that_only_llama_cpp_reads(tmp_path: Path) -> None:
    entry = entry_of_path(write_tiny(tmp_path / "gemma.gguf", Tiny(architecture="gemma3", own_window=64)))
    assert [artifact.backend for artifact in entry.artifacts] == ["gguf"]


@pytest.mark.parametrize(
    ("repo", "name"),
    [("bartowski/SmolLM2-360M-Instruct-GGUF", "smollm2-360m-instruct"), ("a/b", "b"), ("my model!", "my-model")],
)
def test_a_catalog_name_is_made_from_a_repository(repo: str, name: str) -> None:
    assert name_of(repo) == name


def test_an_entry_is_made_from_the_configuration_of_a_folder() -> None:
    entry = entry_of_config("qwen3", CONFIG, FILE, USUAL)
    assert entry.shape.kv == (LayerKv(28, 8, 128),)
    assert entry.shape.n_params == int(335_000_000 * 8 / 4.5)
    assert (entry.shape.limit, entry.shape.n_vocab) == (40960, 151936)
    assert entry.thinking == ("<think>", "</think>")
    assert tier_of(CONFIG) == "mlx-4bit-g64"
    assert bits_of(CONFIG) == 4.5


def test_a_minimal_configuration_without_quantization() -> None:
    least = {
        key: value for key, value in CONFIG.items() if key not in ("quantization", "head_dim", "num_key_value_heads")
    }
    assert tier_of(least) == "mlx-bf16"
    assert entry_of_config("x", {"text_config": least}, FILE, USUAL).shape.kv == (LayerKv(28, 16, 64),)


@pytest.mark.parametrize("value", [None, 0, -1, "28", 1.5, True, 10**12, [28]])
def test_an_impossible_number_is_named(value: object) -> None:
    with pytest.raises(ArtifactError, match="no usable `num_hidden_layers`"):
        entry_of_config("x", CONFIG | {"num_hidden_layers": value}, FILE, USUAL)


GEMMA3_4B = {
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "sliding_window": 1024,
        "rope_scaling": {"factor": 8.0},
    },
    "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27},
}


def test_a_short_text_config_gets_the_defaults_of_its_family() -> None:
    """Gemma 3's 4B and 1B as Google published them; layers and heads of their model cards."""
    shape = entry_of_config("gemma", GEMMA3_4B, FILE, USUAL).shape
    assert (shape.n_heads, shape.n_vocab, shape.limit, shape.n_ffn) == (8, 262208, 131072, 10240)
    assert shape.kv == (LayerKv(29, 4, 256, 1024), LayerKv(5, 4, 256))
    least = {"model_type": "gemma3", "text_config": {"num_hidden_layers": 34}}
    assert entry_of_config("gemma", least, FILE, USUAL).shape.hidden == 2304
    one_b = {
        "model_type": "gemma3_text",
        "hidden_size": 1152,
        "intermediate_size": 6912,
        "num_hidden_layers": 26,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "max_position_embeddings": 32768,
        "vocab_size": 262144,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
    }
    assert entry_of_config("gemma", one_b, FILE, USUAL).shape.kv == (LayerKv(22, 1, 256, 512), LayerKv(4, 1, 256))


@pytest.mark.parametrize(
    ("config", "kv"),
    [
        ({"model_type": "llava", "vocab_size": 9, "text_config": {"model_type": "llama"}}, LayerKv(32, 32, 128)),
        ({"model_type": "mistral3", "text_config": {"model_type": "mistral", "head_dim": 128}}, LayerKv(32, 8, 128)),
        ({"model_type": "x", "llm_config": CONFIG}, LayerKv(28, 8, 128)),
        ({**CONFIG, "text_config": None}, LayerKv(28, 8, 128)),
        ({**CONFIG, "num_hidden_layers": 28.0}, LayerKv(28, 8, 128)),
        ({**CONFIG, "intermediate_size": [3072, 6144]}, LayerKv(28, 8, 128)),
        ({**CONFIG, "sliding_window": 4096, "layer_types": ["full_attention"] * 28}, LayerKv(28, 8, 128)),
        ({**CONFIG, "sliding_window": 64, "layer_types": ["sliding_attention"] * 28}, LayerKv(28, 8, 128, 64)),
        ({**CONFIG, "sliding_window": None, "sliding_window_pattern": 6}, LayerKv(28, 8, 128)),
        ({"model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12, "n_inner": 3072, "n_positions": 1024,
          "vocab_size": 50257}, LayerKv(12, 12, 64)),
    ],
)  # fmt: skip
def test_shapes_of_configurations(config: dict[str, object], kv: LayerKv) -> None:
    assert entry_of_config("x", config, FILE, USUAL).shape.kv == (kv,)


def test_a_missing_number_is_named() -> None:
    with pytest.raises(ArtifactError, match="no usable `hidden_size`"):
        entry_of_config("x", {"model_type": "new", "text_config": {"num_hidden_layers": 2}}, FILE, USUAL)


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff", b"[" * 100_000, b" " * (1 << 20) + b"{}"])
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match="not a model's configuration"):
        read_config(file)


def test_a_configuration_is_read(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(CONFIG))
    assert read_config(file) == CONFIG

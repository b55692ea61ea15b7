"""A Llama GGUF as ExecuTorch's own exporter makes it: `python -m benchmarks.models.stock_program model.gguf out.pte`.

This is `export_llm` of the executorch wheel with K/V cache, its fused attention, 8da4w in groups of 32 and an 8-bit
embedding. It is what `edgeinfer bench bundle --stock` compares with. `--bits-of-bundles` gives `attn_v` and
`attn_output` 8 bits, as our bundles do. Besides `edgeinfer[export]` it needs `omegaconf` and `hydra-core`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from edgeinfer.errors import ArtifactError
from edgeinfer.formats.gguf_header import GgufHeader, read_header

GROUP = 32
CONTEXT = 2048
_PARTS = {
    "attn_norm": "attention_norm",
    "attn_q": "attention.wq",
    "attn_k": "attention.wk",
    "attn_v": "attention.wv",
    "attn_output": "attention.wo",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "feed_forward.w1",
    "ffn_up": "feed_forward.w3",
    "ffn_down": "feed_forward.w2",
}


def stock_program(model: Path, out: Path, quantization: AbstractContextManager[object]) -> None:
    """`quantization` surrounds the export. Raises ArtifactError for another architecture than Llama's."""
    header = read_header(model)
    if header.metadata["general.architecture"] != "llama":
        raise ArtifactError(f"{model}: only Llama files are made into stock programs")
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        checkpoint, params = Path(scratch) / "model.pth", Path(scratch) / "params.json"
        _write_checkpoint(model, header, checkpoint)
        params.write_text(json.dumps(_params(header)), encoding="utf-8")
        with quantization:
            _export(checkpoint, params, out)


def bits_of_bundles() -> AbstractContextManager[object]:
    """torchao's `quantize_` gives `attn_v` and `attn_output` 8 bits, with a scale for each row."""
    import torch
    from torchao import quantization
    from torchao.quantization.granularity import PerAxis

    from edgeinfer.backends.executorch.export.quantize import IN_8_BITS

    rounded = quantization.quantize_
    names = tuple(_PARTS[part] for part in IN_8_BITS)
    in_8_bits = quantization.Int8DynamicActivationIntxWeightConfig(
        weight_dtype=torch.int8, weight_granularity=PerAxis(0)
    )

    def in_two_widths(model: Any, config: Any, filter_fn: Any) -> None:
        rounded(model, in_8_bits, lambda module, name: filter_fn(module, name) and name.endswith(names))
        rounded(model, config, lambda module, name: filter_fn(module, name) and not name.endswith(names))

    return patch.object(quantization, "quantize_", in_two_widths)


def _write_checkpoint(model: Path, header: GgufHeader, out: Path) -> None:
    """In Meta's names. Its rows of q and k lie in pairs for RoPE, as GGUF's do."""
    import numpy as np
    import torch
    from gguf import GGMLQuantizationType, GGUFReader, dequantize

    weights: dict[str, Any] = {}
    for tensor in GGUFReader(model).tensors:
        values = dequantize(tensor.data, GGMLQuantizationType(tensor.tensor_type)).astype(np.float32)
        weights[_meta_name(tensor.name)] = torch.from_numpy(values.copy())
    if "output.weight" not in header.by_name:
        weights["output.weight"] = weights["tok_embeddings.weight"]
    torch.save(weights, out)


def _meta_name(name: str) -> str:
    if name.startswith("blk."):
        _, layer, part, _ = name.split(".")
        return f"layers.{layer}.{_PARTS[part]}.weight"
    return {"token_embd.weight": "tok_embeddings.weight", "output_norm.weight": "norm.weight"}.get(name, name)


def _params(header: GgufHeader) -> dict[str, float]:
    metadata = header.metadata

    def number(key: str) -> Any:
        return metadata[f"llama.{key}"]

    return {
        "dim": number("embedding_length"),
        "n_layers": number("block_count"),
        "n_heads": number("attention.head_count"),
        "n_kv_heads": number("attention.head_count_kv"),
        "hidden_dim": number("feed_forward_length"),
        "norm_eps": number("attention.layer_norm_rms_epsilon"),
        "rope_theta": number("rope.freq_base"),
        "vocab_size": header.by_name["token_embd.weight"].shape[1],
    }


def _export(checkpoint: Path, params: Path, out: Path) -> None:
    from executorch.examples.models.llama.export_llama_lib import export_llama
    from executorch.extension.llm.export.config.llm_config import LlmConfig, ModelType

    config = LlmConfig()
    config.base.model_class = ModelType.llama3
    config.base.checkpoint, config.base.params = str(checkpoint), str(params)
    config.base.metadata = json.dumps({"get_bos_id": 1, "get_eos_ids": [2]})
    config.model.use_kv_cache = config.model.use_sdpa_with_kv_cache = config.model.enable_dynamic_shape = True
    config.export.max_seq_length, config.export.max_context_length = 129, CONTEXT
    config.export.output_name = str(out.resolve())
    config.quantization.qmode = "8da4w"
    config.quantization.group_size = GROUP
    config.quantization.embedding_quantize = "8,0"
    config.backend.xnnpack.enabled = config.backend.xnnpack.extended_ops = True
    export_llama(config)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models.stock_program", description=__doc__)
    parser.add_argument("model", type=Path, help="a GGUF file of the Llama architecture")
    parser.add_argument("out", type=Path, metavar="OUT.pte")
    parser.add_argument("--bits-of-bundles", action="store_true", help="attn_v and attn_output in 8 bits")
    options = parser.parse_args(arguments)
    stock_program(options.model, options.out, bits_of_bundles() if options.bits_of_bundles else nullcontext())


if __name__ == "__main__":
    main(sys.argv[1:])

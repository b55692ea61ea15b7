"""A Llama folder in bfloat16 as a GGUF, so that llama.cpp can say what quantization costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.models.ggufs import Value, copy_metadata
from edgeinfer.errors import ArtifactError
from edgeinfer.formats.safetensors_header import SafetensorsTensor, check_folder

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_BF16 = 32  # general.file_type


def convert(folder: Path, like: Path, out: Path) -> None:
    """Write the bfloat16 weights of `folder` to `out`, bit for bit, with tokenizer and shape of the GGUF `like`.

    Raises ArtifactError for a folder that is not a Llama in bfloat16.
    """
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter

    checked = check_folder(folder)
    if checked.config.get("model_type") != "llama":
        raise ArtifactError(f"{folder} is not a Llama model: model_type is {checked.config.get('model_type')!r}")
    heads, kv_heads = checked.config["num_attention_heads"], checked.config["num_key_value_heads"]
    changed: dict[str, Value] = {"general.file_type": _BF16}
    writer = GGUFWriter(out, "llama")
    copy_metadata(GGUFReader(like), writer, changed)
    for file, header in checked.files.items():
        data = np.memmap(folder / file, np.uint8, "r")
        for name, tensor in header.tensors.items():
            values, target = _bits(data, tensor, folder), _target(name, folder)
            if target.endswith("attn_q.weight"):
                values = _interleaved(values, heads)
            elif target.endswith("attn_k.weight"):
                values = _interleaved(values, kv_heads)
            if values.ndim == 1:
                writer.add_tensor(target, (values.astype(np.uint32) << 16).view(np.float32))
            else:
                writer.add_tensor(target, values.view(np.uint8), raw_dtype=GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _bits(data: Any, tensor: SafetensorsTensor, folder: Path) -> npt.NDArray[np.uint16]:
    import numpy as np

    if tensor.dtype != "BF16":
        raise ArtifactError(f"{folder} holds {tensor.dtype}; bfloat16 is needed")
    bits: npt.NDArray[np.uint16] = (
        np.array(data[tensor.offset : tensor.offset + tensor.n_bytes]).view(np.uint16).reshape(tensor.shape)
    )
    return bits


def _target(name: str, folder: Path) -> str:
    stem = name.removesuffix(".weight")
    if stem in _TOP:
        return f"{_TOP[stem]}.weight"
    parts = stem.split(".", 3)  # model.layers.N.rest
    if len(parts) != 4 or parts[3] not in _NAMES:
        raise ArtifactError(f"{folder} holds {name}, which a Llama does not have")
    return f"blk.{parts[2]}.{_NAMES[parts[3]]}.weight"


def _interleaved(rows: npt.NDArray[np.uint16], n_heads: int) -> npt.NDArray[np.uint16]:
    """Rotated halves (Hugging Face) to neighboring pairs (GGUF's llama)."""
    n, width = rows.shape
    return rows.reshape(n_heads, 2, n // n_heads // 2, width).swapaxes(1, 2).reshape(n, width).copy()

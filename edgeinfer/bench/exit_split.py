"""A GGUF cut at its exit layer, for the ways of drafting that load parts of a model. Reads trusted files only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from gguf import GGUFReader, GGUFWriter

    Named: TypeAlias = tuple[str, Any]  # a tensor of the reader under another name

_OWN_KEYS: Final = ("GGUF.", "general.architecture", "general.quantization_version", "split.")
_NO_VOCABULARY: Final = 32  # entries of a part that takes hidden states only
_HEAD_DIM: Final = 32


@dataclass(frozen=True, slots=True)
class Parts:
    """Files of each part; a part may share files with another."""

    front: tuple[Path, ...]
    back: tuple[Path, ...]
    head: tuple[Path, ...] = ()

    @property
    def n_bytes(self) -> int:
        return sum(path.stat().st_size for path in {*self.front, *self.back, *self.head})


class _Source:
    def __init__(self, path: Path, exit_layer: int) -> None:
        from gguf import GGUFReader

        self.reader: GGUFReader = GGUFReader(path)
        self.architecture = str(self.value("general.architecture"))
        self.n_layers = int(self.value(f"{self.architecture}.block_count"))
        self.exit_layer = exit_layer

    def value(self, key: str) -> Any:
        return self.reader.fields[key].contents()

    def layers(self, start: int, stop: int) -> Iterator[Named]:
        for tensor in self.reader.tensors:
            found = re.fullmatch(r"blk\.(\d+)\.(.*)", tensor.name)
            if found and start <= int(found[1]) < stop:
                yield f"blk.{int(found[1]) - start}.{found[2]}", tensor

    def others(self) -> list[Named]:
        return [(tensor.name, tensor) for tensor in self.reader.tensors if not tensor.name.startswith("blk.")]

    def halves(self) -> Iterator[tuple[str, int, list[Named]]]:
        yield "front", self.exit_layer, list(self.layers(0, self.exit_layer))
        yield "back", self.n_layers - self.exit_layer, list(self.layers(self.exit_layer, self.n_layers))


def split_shared(path: Path, exit_layer: int, folder: Path) -> Parts:
    """Front and back, each one half of a split file whose other half (embedding, norm, head) they share."""
    front, back, common = folder / "front.gguf", folder / "back.gguf", folder / "common.gguf"
    if common.exists():  # written last
        return Parts((front, common), (back, common))
    source = _Source(path, exit_layer)
    others = source.others()
    for name, n_layers, tensors in source.halves():
        writer = _writer(folder / f"{name}.gguf", source, {f"{source.architecture}.block_count": n_layers})
        _mark(writer, 0, len(tensors) + len(others))
        _finish(writer, tensors)
    from gguf import GGUFWriter

    writer = GGUFWriter(common, "")
    _mark(writer, 1, len(others))
    _finish(writer, others)
    return Parts((front, common), (back, common))


def split_headless(path: Path, exit_layer: int, folder: Path) -> Parts:
    """Front and back without a vocabulary, fed with hidden states, and the head as a model of its own."""
    front, back, head = (folder / f"headless-{name}.gguf" for name in ("front", "back", "head"))
    if head.exists():  # written last
        return Parts((front,), (back,), (head,))
    source = _Source(path, exit_layer)
    hidden = int(source.value(f"{source.architecture}.embedding_length"))
    small = [named for named in source.others() if not named[0].startswith(("token_embd", "output."))]
    stand_in = [("token_embd.weight", np.zeros((_NO_VOCABULARY, hidden), np.float32))]
    for name, n_layers, tensors in source.halves():
        changed: dict[str, int | str] = {
            f"{source.architecture}.block_count": n_layers,
            f"{source.architecture}.vocab_size": _NO_VOCABULARY,
            "tokenizer.ggml.model": "no_vocab",
        }
        file = folder / f"headless-{name}.gguf"
        _finish(_writer(file, source, changed, without="tokenizer."), [*small, *tensors], stand_in)
    _write_head(head, source, hidden)
    return Parts((front,), (back,), (head,))


def _write_head(path: Path, source: _Source, hidden: int) -> None:
    """A Llama of one tiny layer whose output is zero, so that a hidden state goes straight to norm and head."""
    from gguf import GGUFWriter

    tensors = [named for named in source.others() if named[0].startswith(("token_embd", "output"))]
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(8192)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(_HEAD_DIM)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_key_length(_HEAD_DIM)
    writer.add_value_length(_HEAD_DIM)
    writer.add_rope_dimension_count(_HEAD_DIM)
    writer.add_layer_norm_rms_eps(source.value(f"{source.architecture}.attention.layer_norm_rms_epsilon"))
    writer.add_vocab_size(int(next(t for name, t in tensors if name == "token_embd.weight").shape[1]))
    writer.add_tokenizer_model("no_vocab")
    shapes = {
        "attn_norm": (hidden,),
        "ffn_norm": (hidden,),
        "attn_q": (_HEAD_DIM, hidden),
        "attn_k": (_HEAD_DIM, hidden),
        "attn_v": (_HEAD_DIM, hidden),
        "attn_output": (hidden, _HEAD_DIM),
        "ffn_gate": (_HEAD_DIM, hidden),
        "ffn_up": (_HEAD_DIM, hidden),
        "ffn_down": (hidden, _HEAD_DIM),
    }
    _finish(writer, tensors, [(f"blk.0.{name}.weight", np.zeros(shape, np.float32)) for name, shape in shapes.items()])


def _writer(path: Path, source: _Source, changed: dict[str, int | str], *, without: str = "split.") -> GGUFWriter:
    from gguf import GGUFValueType, GGUFWriter

    writer = GGUFWriter(path, source.architecture)
    for key, field in source.reader.fields.items():
        if key in changed or key.startswith((*_OWN_KEYS, without)):
            continue
        sub_type = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), field.types[0], sub_type=sub_type)
    for key, value in changed.items():
        writer.add_key_value(key, value, GGUFValueType.STRING if isinstance(value, str) else GGUFValueType.UINT32)
    return writer


def _mark(writer: GGUFWriter, index: int, n_tensors: int) -> None:
    writer.add_uint16("split.no", index)
    writer.add_uint16("split.count", 2)
    writer.add_int32("split.tensors.count", n_tensors)


def _finish(writer: GGUFWriter, tensors: Iterable[Named], made: Iterable[tuple[str, Any]] = ()) -> None:
    for name, tensor in tensors:
        writer.add_tensor(name, tensor.data, raw_dtype=tensor.tensor_type)
    for name, values in made:
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

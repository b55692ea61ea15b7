"""Draft files: what is read from a valid one, and how a hostile one is refused."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeinfer.errors import ArtifactError
from edgeinfer.formats.draft_file import DraftShape, read_draft_file

SHAPE = DraftShape("llama", n_layers=4, hidden=8, n_heads=2, n_kv_heads=1, head_dim=4, n_ffn=16, n_vocab=32)
LAYER = {
    "attn_norm": (8,), "attn_q": (8, 8), "attn_k": (4, 8), "attn_v": (4, 8), "attn_output": (8, 8),
    "ffn_norm": (8,), "ffn_gate": (16, 8), "ffn_up": (16, 8), "ffn_down": (8, 16), "output_norm": (8,),
}  # fmt: skip
FEATURE = LAYER | {"token_norm": (8,), "feature_norm": (8,), "join": (8, 16), "taps": (8, 24)}
META = {
    "format": "1", "architecture": "llama", "n_layers": "4", "hidden": "8", "n_heads": "2", "n_kv_heads": "1",
    "head_dim": "4", "n_ffn": "16", "n_vocab": "32", "norm_eps": "1e-05", "base": "org/tiny", "taught_on": "ab",
    "license": "apache-2.0", "agreement": "[0.5, 0.25]",
}  # fmt: skip
EXIT_META = META | {"kind": "exit", "exit_layer": "2"}
FEATURE_META = META | {"kind": "feature", "taps": "[1, 2, 4]"}


def write(
    path: Path,
    meta: Mapping[str, str],
    dims: Mapping[str, tuple[int, ...]] = LAYER,
    ranked: np.ndarray[Any, Any] | None = None,
) -> Path:
    tensors: dict[str, np.ndarray[Any, Any]] = {
        f"{name}.weight": np.arange(np.prod(shape), dtype=np.float16).reshape(shape) for name, shape in dims.items()
    }
    tensors["ranked_tokens"] = np.array([3, 1, 2], np.int32) if ranked is None else ranked
    header: dict[str, Any] = {"__metadata__": dict(meta)}
    at = 0
    for name, values in tensors.items():
        kind = {"float16": "F16", "int32": "I32", "int64": "I64"}[values.dtype.name]
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(values.tobytes() for values in tensors.values()))
    return path


def test_an_exit_draft(tmp_path: Path) -> None:
    draft = read_draft_file(write(tmp_path / "a.draft.safetensors", EXIT_META))
    assert (draft.kind, draft.exit_layer, draft.taps, draft.shape) == ("exit", 2, (), SHAPE)
    assert draft.agreement == (0.5, 0.25)
    assert draft.ranked_tokens.tolist() == [3, 1, 2]
    assert draft.tensor("attn_k")[1].tolist() == [8, 9, 10, 11, 12, 13, 14, 15]


def test_a_feature_draft(tmp_path: Path) -> None:
    draft = read_draft_file(write(tmp_path / "a.draft.safetensors", FEATURE_META, FEATURE))
    assert (draft.kind, draft.exit_layer, draft.taps) == ("feature", 0, (1, 2, 4))
    assert draft.tensor("taps").shape == (8, 24)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "2"}, "draft format '2'"),
        ({"kind": "tree"}, "kind is 'tree'"),
        ({"exit_layer": "0"}, "`exit_layer` is 0"),
        ({"exit_layer": "4"}, "`exit_layer` is 4; 1 to 3"),
        ({"exit_layer": "true"}, "`exit_layer` is True"),
        ({"hidden": "-8"}, "`hidden` is -8"),
        ({"hidden": "1e9"}, "`hidden` is 1000000000.0"),
        ({"hidden": "[" * 2000}, "no usable `hidden`"),
        ({"hidden": "eight"}, "`hidden` is 'eight'"),
        ({"norm_eps": "NaN"}, "`norm_eps` is nan"),
        ({"agreement": "[2]"}, "`agreement` is 2"),
        ({"agreement": "0.5"}, "`agreement` is not a list"),
        ({"base": "a\nb"}, "no usable `base`"),
        ({"n_ffn": "8"}, "the tensor ffn_gate is F16 [16, 8]; [8, 8] is needed"),
    ],
)
def test_an_unusable_header_is_refused(tmp_path: Path, change: dict[str, str], said: str) -> None:
    with pytest.raises(ArtifactError, match="not a usable draft") as error:
        read_draft_file(write(tmp_path / "a.draft.safetensors", EXIT_META | change))
    assert said in str(error.value)


@pytest.mark.parametrize("taps", ["[]", "[0, 1]", "[2, 1]", "[1, 1]", "[1, 5]", "[1, 2, 3, 4, 1, 2, 3, 4, 1]", "3"])
def test_impossible_taps_are_refused(tmp_path: Path, taps: str) -> None:
    with pytest.raises(ArtifactError, match="`taps`"):
        read_draft_file(write(tmp_path / "a.draft.safetensors", FEATURE_META | {"taps": taps}, FEATURE))


@pytest.mark.parametrize(
    ("ranked", "said"),
    [
        (np.array([1, 1], np.int32), "each token once"),
        (np.array([32], np.int32), "each token once, from 0 to 31"),
        (np.array([-1], np.int32), "each token once"),
        (np.array([1], np.int64), "I64"),
        (np.zeros((1, 1), np.int32), "[1, 1]"),
        (np.arange(33, dtype=np.int32), "[33]"),
    ],
)
def test_ranked_tokens_that_are_no_vocabulary_are_refused(
    tmp_path: Path, ranked: np.ndarray[Any, Any], said: str
) -> None:
    with pytest.raises(ArtifactError) as error:
        read_draft_file(write(tmp_path / "a.draft.safetensors", EXIT_META, LAYER, ranked))
    assert said in str(error.value)


def test_a_missing_or_unknown_tensor_is_refused(tmp_path: Path) -> None:
    without = {name: dims for name, dims in LAYER.items() if name != "attn_q"}
    with pytest.raises(ArtifactError, match=r"attn_q.weight' is missing"):
        read_draft_file(write(tmp_path / "a.draft.safetensors", EXIT_META, without))
    with pytest.raises(ArtifactError, match=r"join.weight' is not of this kind"):
        read_draft_file(write(tmp_path / "b.draft.safetensors", EXIT_META, LAYER | {"join": (8, 16)}))


def test_a_draft_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    draft = read_draft_file(write(tmp_path / "a.draft.safetensors", EXIT_META))
    assert draft.refusal(SHAPE) == ""
    other = DraftShape("llama", n_layers=5, hidden=8, n_heads=2, n_kv_heads=1, head_dim=4, n_ffn=16, n_vocab=33)
    assert draft.refusal(other) == (
        "it was taught to org/tiny: n_layers 4, the model has 5; n_vocab 32, the model has 33"
    )

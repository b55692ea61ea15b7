"""The measurements of window, perplexity and endurance, short and on tiny models. No speed is asserted."""

import argparse
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("llama_cpp")

from benchmarks import endurance, long_chats, perplexity, window
from benchmarks.models.from_folder import convert
from edgeinfer.bench.opened import opened
from edgeinfer.errors import ArtifactError, UsageError
from edgeinfer.formats.gguf_header import read_header
from edgeinfer.plan.types import Request
from edgeinfer.window import WindowPolicy
from tests.tiny_gguf import Tiny, write_tiny


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.Q8_0.gguf", Tiny(tier="Q8_0", n_layers=2, exit_layer=1))


def run(module: ModuleType, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    code: int = module.run(parser.parse_args(arguments))
    return code


def test_the_window_on_llama_cpp_equals_that_of_the_reference(path: Path, tmp_path: Path) -> None:
    results = list(window.sweep(path, [(4, 256, 64)], window.ENGINES))
    assert [result.engine for result in results] == ["f16, no FA", "f16", "q8_0/f16", "q8_0", "q4_0"]
    assert all(result.evictions >= 5 and result.passed for result in results)
    assert all(result.wrong_error > 5 * result.error for result in results[:2])
    text = window.markdown(path, results, quick=True)
    assert "5 of 5 passed" in text
    assert "256, 4, 64" in text


def test_a_window_that_is_wrong_fails(path: Path) -> None:
    tokens = window._tokens(path, 640)
    right, wrong = WindowPolicy(256, 4, 64, 1024), WindowPolicy(320, 4, 64, 1024)
    engine = window.Engine("f16", flash_attention=False)
    expected = window._reference(path, "f16", right, tokens)
    of_wrong, of_right = (
        window._high(window._errors(path, engine, policy, tokens, expected, 256)) for policy in (wrong, right)
    )
    assert of_wrong > 10 * of_right


def test_perplexity_equals_that_of_the_logits_of_the_reference(path: Path) -> None:
    tokens = window._tokens(path, 100)
    policy = WindowPolicy(256, 0, 64, 256)
    with opened(Request(model=str(path), backend="gguf", kv_type="f16", speculation="off", force=True)) as subject:
        losses = perplexity._losses(subject.model, policy, tokens)
    logits = window._reference(path, "f32", policy, tokens)[:-1].astype(np.float64)
    expected = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(99), tokens[1:]]
    assert losses.shape == (99,)
    assert losses == pytest.approx(expected, abs=0.5)
    assert losses.mean() == pytest.approx(expected.mean(), abs=0.05)


def test_perplexity_is_reported_for_each_window(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the rain in the train station is the same rain. " * 60, encoding="utf-8")
    arguments = ("--model", str(path), "--text", str(text), "--length", "384", "--pieces", "1", "--windows", "256")
    assert run(perplexity, *arguments, "--against", str(path), "--out", str(tmp_path / "p.md")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 + 6 + 1
    assert lines[-1].startswith("everything kept, tiny.Q8_0.gguf")
    assert lines[0].split(":")[1] == lines[-1].split(":")[1]  # the same file, everything kept
    with pytest.raises(UsageError, match="tokens"):
        run(perplexity, *arguments[:-6], "--length", "2048", "--pieces", "1")


def test_an_endurance_run_reports_evictions_and_speed(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_chats, "_ANSWER", 60)
    monkeypatch.setattr(endurance, "_SPAN", 120)
    assert run(endurance, "--model", str(path), "--context", "384", "--tokens", "2600", "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert row["tokens"] >= 2600
    assert row["evicted"] > 1500
    assert row["reanchored"] >= 1
    assert row["reprefilled"] > 0
    assert row["growth"] < 0.01
    assert row["tokens_alone_growth"] < 0.01
    with pytest.raises(UsageError, match="needs"):
        run(endurance, "--model", str(path), "--context", "384", "--tokens", "300")


def test_a_folder_is_converted_to_the_same_model(tmp_path: Path) -> None:
    """Each row encodes its head, half and pair; the order is written out for two heads of four."""
    like = write_tiny(tmp_path / "like.gguf", Tiny(n_layers=1, hidden=8, n_heads=2, n_kv_heads=1, head_dim=4, n_ffn=8))
    n_vocab = read_header(like).by_name["token_embd.weight"].shape[1]
    shapes = {
        "model.embed_tokens": (n_vocab, 8),
        "model.layers.0.self_attn.q_proj": (8, 8),
        "model.layers.0.self_attn.k_proj": (4, 8),
        "model.norm": (8,),
    }
    header, data = {}, b""
    for name, shape in shapes.items():
        rows = np.repeat(np.arange(shape[0], dtype=np.uint16), int(np.prod(shape[1:])))
        header[f"{name}.weight"] = {
            "dtype": "BF16",
            "shape": shape,
            "data_offsets": [len(data), len(data) + rows.nbytes],
        }
        data += rows.tobytes()
    folder = tmp_path / "folder"
    folder.mkdir()
    raw = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    config = {"model_type": "llama", "num_attention_heads": 2, "num_key_value_heads": 1}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    out = tmp_path / "out.gguf"
    convert(folder, like, out)
    found = read_header(out).by_name
    assert found["token_embd.weight"].type.name == "BF16"
    assert found["output_norm.weight"].type.name == "F32"
    query = found["blk.0.attn_q.weight"]
    rows = np.frombuffer(out.read_bytes(), np.uint16, 64, query.offset).reshape(8, 8)[:, 0]
    assert rows.tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    (folder / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    with pytest.raises(ArtifactError, match="not a Llama"):
        convert(folder, like, out)

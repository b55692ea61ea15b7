"""Each piece of text begins like a prompt."""

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from benchmarks.perplexity import _pieces
from edgeinfer.bench.opened import OpenedModel


class Words:
    bos_text = "<s>"

    def encode(self, text: str, *, special: bool) -> list[int]:
        return [0] if special else [len(word) for word in text.split()]


def test_each_piece_begins_with_the_bos_of_the_model(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a bb ccc dddd a bb ccc dddd", encoding="utf-8")
    subject = cast("OpenedModel", SimpleNamespace(model=SimpleNamespace(tokenizer=Words())))
    assert _pieces(subject, Namespace(text=text, length=3, pieces=2, template="")) == [[0, 1, 2], [0, 1, 2]]

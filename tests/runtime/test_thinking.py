"""Reasoning, its budget and its display, compared with Python, with a template that opens a trace."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import edgeinfer
from edgeinfer.backends.executorch.bundle import BundleTokenizer
from edgeinfer.formats.bundle import check_bundle, file_of
from edgeinfer.formats.manifest import TEMPLATE, write_manifest
from edgeinfer.runner.exporting import describe_chat
from tests.runtime.built import Runtime
from tests.runtime.child import Process
from tests.runtime.library import Library

QUESTIONS = ("Tell me a story about a little dog and a cat.", "And then?")
CONTEXT = 512


@dataclass(frozen=True, slots=True)
class How:
    thinking: bool = True
    budget: int | None = None
    max_tokens: int = 30


@dataclass(frozen=True, slots=True)
class Said:
    text: str
    thinking: str
    tokens: tuple[int, ...]
    emitted: int


@pytest.fixture(scope="module")
def reasoner(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo with a template that opens a trace."""
    folder = Path(shutil.copytree(demo, tmp_path_factory.mktemp("thinking") / "bundle"))
    template = folder / TEMPLATE
    written = template.read_text(encoding="utf-8")
    opened = written.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n")
    assert opened != written, written
    template.write_text(opened, encoding="utf-8")
    manifest = check_bundle(demo).manifest
    files = {**manifest.files, TEMPLATE: file_of(template)}
    chat = describe_chat(BundleTokenizer(folder, manifest))
    write_manifest(folder, replace(manifest, files=files, chat=chat))
    return folder


def by_python(bundle: Path, how: How) -> list[Said]:
    request = edgeinfer.Request(model=str(bundle), backend="executorch", context=CONTEXT, speculation="off")
    said = []
    with edgeinfer.load(request) as model, model.chat() as chat:
        for question in QUESTIONS:
            answer = chat.ask(
                question,
                sampling=edgeinfer.GREEDY,
                max_tokens=how.max_tokens,
                thinking=how.thinking,
                think_budget=how.budget,
            )
            said.append(Said(answer.text, answer.thinking, answer.tokens, answer.stats.emitted))
    return said


def by_library(library: Path, bundle: Path, how: How) -> list[Said]:
    budget = -1 if how.budget is None else how.budget
    said = []
    with Library(library).open(bundle, context=CONTEXT) as model:
        session = model.session()
        for question in QUESTIONS:
            answer = session.chat(question, max_tokens=how.max_tokens, thinking=int(how.thinking), think_budget=budget)
            said.append(Said(answer.text, answer.thinking, tuple(answer.tokens), int(answer.stats["emitted"])))
    return said


@pytest.mark.parametrize("how", [How(budget=8), How(), How(thinking=False), How(budget=0), How(budget=29)], ids=str)
def test_a_chat_with_reasoning_equals_that_of_python(
    built: Runtime, reasoner: Path, in_python: Process, in_runtime: Process, how: How
) -> None:
    expected = in_python(by_python, reasoner, how)
    assert any(said.thinking for said in expected) == (how.thinking and how.budget != 0)
    assert in_runtime(by_library, built.library, reasoner, how) == expected

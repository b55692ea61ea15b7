"""All prompts of the speculation bench: the runtime, drafting as it likes, says what Python says plainly."""

from __future__ import annotations

import json
from pathlib import Path

import edgeinfer
from tests.runtime.built import Runtime
from tests.runtime.child import apart
from tests.runtime.library import AUTO, Library

PROMPTS = Path(edgeinfer.__file__).parent / "bench/data/prompts.jsonl"
CONTEXT, MAX_TOKENS = 1024, 24


def read_prompts() -> list[tuple[str, str]]:
    """System prompt, or "", and question."""
    conversations = [json.loads(line)["messages"] for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    return [
        (messages[0]["content"] if messages[0]["role"] == "system" else "", messages[-1]["content"])
        for messages in conversations
        if len(messages) <= 2
    ]


def by_python(bundle: Path, prompts: list[tuple[str, str]]) -> list[tuple[int, ...]]:
    request = edgeinfer.Request(model=str(bundle), backend="executorch", context=CONTEXT, speculation="off")
    said = []
    with edgeinfer.load(request) as model:
        for system, question in prompts:
            with model.chat(system) as chat:
                said.append(chat.ask(question, sampling=edgeinfer.GREEDY, max_tokens=MAX_TOKENS).tokens)
    return said


def by_library(library: Path, bundle: Path, prompts: list[tuple[str, str]]) -> list[tuple[int, ...]]:
    model = Library(library).open(bundle, context=CONTEXT, drafting=AUTO)
    said = []
    for system, question in prompts:
        session = model.session(system)
        said.append(tuple(session.chat(question, max_tokens=MAX_TOKENS).tokens))
        session.free()
    return said


def test_every_prompt(built: Runtime, demo: Path) -> None:
    prompts = read_prompts()
    assert len(prompts) >= 80
    assert apart(by_library, built.library, demo, prompts) == apart(by_python, demo, prompts)

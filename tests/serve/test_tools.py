"""Calls of tools in text, in the formats of the model families."""

from __future__ import annotations

from contextlib import closing

import pytest

from edgeinfer.chat.template import CHATML, Renderer, Template
from edgeinfer.chat.tool_formats import GENERIC, ToolFormat, format_of
from edgeinfer.chat.tool_prompts import confirmed, with_tools_in_words
from edgeinfer.serve.tools.reading import ToolReader
from edgeinfer.types import Message, ToolCall

NAMES = frozenset({"add", "weather"})
QWEN = format_of("{% if tools %}<tools>{{ tools }}</tools> <tool_call>{% endif %}")
MISTRAL = format_of("{{ tools }}[TOOL_CALLS]")
PHI = format_of("{{ tools }}<|tool_call|>")
LLAMA = format_of('tools {"name": function name, "parameters": dictionary of argument name and its value}')
SUM = ToolCall("add", '{"a":1,"b":"}{"}')


def read(written: ToolFormat, text: str, size: int, *, inside: bool = False) -> list[str | ToolCall]:
    reader = ToolReader(written, NAMES, inside=inside)
    read: list[str | ToolCall] = []
    for at in range(0, len(text), size):
        read += reader.feed(text[at : at + size])
    read += reader.finish()
    joined: list[str | ToolCall] = []
    for part in read:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    return joined


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize(
    ("written", "text", "expected"),
    [
        (QWEN, 'Sure.<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "}{"}}\n</tool_call>', ["Sure.", SUM]),
        (
            QWEN,
            '<tool_call>{"name":"add","arguments":{"a":1,"b":"}{"}}</tool_call>\n'
            '<tool_call>{"name":"weather","arguments":{}}</tool_call> Done',
            [SUM, ToolCall("weather", "{}"), "Done"],
        ),
        (MISTRAL, '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1, "b": "}{"}}]', [SUM]),
        (PHI, '<|tool_call|>[{"name": "add", "arguments": {"a": 1, "b": "}{"}}]<|/tool_call|>', [SUM]),
        (LLAMA, ' {"name": "add", "parameters": {"a": 1, "b": "}{"}}', [SUM]),
        (LLAMA, 'An object: {"name": "add", "parameters": {}}', ['An object: {"name": "add", "parameters": {}}']),
        (QWEN, "a < b and <tool", ["a < b and <tool"]),
        (QWEN, '<tool_call>{"name": "rm", "arguments": {}}!', ['<tool_call>{"name": "rm", "arguments": {}}!']),
        (QWEN, '<tool_call>{"name": "add", "argum', ['<tool_call>{"name": "add", "argum']),
        (LLAMA, '{"answer": 42}', ['{"answer": 42}']),
    ],
)  # fmt: skip
def test_calls_are_found_and_no_text_is_lost(
    written: ToolFormat, text: str, expected: list[str | ToolCall], size: int
) -> None:
    assert read(written, text, size) == expected


def test_a_call_may_be_opened_by_the_prompt() -> None:
    assert read(GENERIC, '{"name": "weather", "arguments": {}}', 3, inside=True) == [ToolCall("weather", "{}")]


def test_a_template_without_tools_gets_a_default_format() -> None:
    assert format_of("{{ messages }}") == GENERIC and not GENERIC.native
    assert (QWEN.native, MISTRAL.opening, PHI.closing, LLAMA.arguments) == (
        True, "[TOOL_CALLS]", "<|/tool_call|>", "parameters",
    )  # fmt: skip


WRITES_TOOLS = "{% if tools %}{{ tools | tojson }}<tool_call>{% endif %}"
WRITES_CALLS = "{% for m in messages if m.tool_calls %}{{ m.tool_calls | tojson }}{% endfor %}"


@pytest.mark.parametrize(
    ("source", "native"),
    [
        (WRITES_TOOLS + WRITES_CALLS + CHATML, True),
        (WRITES_TOOLS + CHATML, False),  # Granite 3.3: past calls are missing
        ("{# <tool_call> tools #}" + WRITES_CALLS + CHATML, False),  # the tools are missing
        (WRITES_TOOLS + WRITES_CALLS + "{{ messages[0].content }}", False),  # the results are missing
        (WRITES_TOOLS + "{{ raise_exception('no tools') if tools }}" + CHATML, False),
    ],
)
def test_a_template_that_leaves_tools_out_gets_them_in_words(source: str, native: bool) -> None:
    with closing(Renderer()) as renderer:
        assert confirmed(format_of(source), Template(renderer, source)).native == native


def test_results_that_come_together_are_one_message() -> None:
    calls = Message("assistant", "", tool_calls=(SUM, SUM))
    results = [Message("tool", "1", call_id="a", name="add"), Message("tool", "2", call_id="b", name="add")]
    words = with_tools_in_words([Message("user", "Add."), calls, *results, Message("assistant", "3")], [])
    assert [message.role for message in words] == ["user", "assistant", "user", "assistant"]
    assert words[2].content == "<tool_response>1</tool_response>\n<tool_response>2</tool_response>"

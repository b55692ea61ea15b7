"""Long conversations are rendered in windows; joined, they equal the text of the whole."""

from collections.abc import Iterator
from typing import Any

import pytest

from edgeinfer.chat.frames import n_same
from edgeinfer.chat.rendering import WHOLE, ConversationWriter
from edgeinfer.chat.template import CHATML, Renderer, Template
from edgeinfer.types import Message
from tests.unit.chat_templates import KINDS, LOOKS_BACK

RULE = Message("system", "Rule one.")


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    one = Renderer()
    yield one
    one.close()


class Counting(Template):
    """Counts the messages that were rendered."""

    n_messages = 0

    def render(self, messages: Any, variables: Any = None) -> str:
        self.n_messages += len(messages)
        return super().render(messages, variables)


def talk(n: int) -> list[Message]:
    """`n` messages; the last is the user's."""
    return [Message("assistant" if (n - at) % 2 == 0 else "user", f" the {at}th thing ") for at in range(n)][
        n % 2 == 0 :
    ]


TAKES_SYSTEM = [kind for kind in KINDS if kind not in ("no system", "dropped system")]


@pytest.mark.parametrize("kind", TAKES_SYSTEM)
@pytest.mark.parametrize("n", [WHOLE, WHOLE + 1, 3 * WHOLE - 1])
def test_joined_windows_equal_the_whole_text(renderer: Renderer, kind: str, n: int) -> None:
    template = Template(renderer, KINDS[kind], bos="<s>", eos="</s>")
    messages = [RULE, *talk(n)]
    written = ConversationWriter(template).write(messages, {})
    assert written.text == template.render(messages)


@pytest.mark.parametrize("kind", TAKES_SYSTEM)
def test_text_grown_turn_by_turn_equals_the_whole_text(renderer: Renderer, kind: str) -> None:
    template = Template(renderer, KINDS[kind], bos="<s>", eos="</s>")
    writer = ConversationWriter(template)
    messages = [RULE, *talk(WHOLE - 5)]
    for turn in range(8):
        written = writer.write(messages, {})
        assert written.text == template.render(messages), turn
        messages += [Message("assistant", f"answer {turn}"), Message("user", f"question {turn}")]


def test_a_turn_renders_only_new_messages(renderer: Renderer) -> None:
    template = Counting(renderer, LOOKS_BACK)
    writer = ConversationWriter(template)
    messages = talk(2000)
    writer.write(messages, {})
    assert template.n_messages < 2 * len(messages)
    template.n_messages = 0
    messages += [Message("assistant", "yes"), Message("user", "and?")]
    written = writer.write(messages, {})
    assert template.n_messages < 12
    assert written.text.count("<|user|>") == 1001
    assert min(written.ends) >= 0


COUNTS_MESSAGES = "{{ messages | length }}" + CHATML
NUMBERS_MESSAGES = "{% for m in messages %}{{ loop.index ~ ' ' ~ m.role ~ ': ' ~ m.content ~ '\n' }}{% endfor %}"
EVERY_TENTH = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + ('!' if loop.index0 % 10 == 9 else '') + '<|end|>' }}"
    "{% endfor %}"
)


@pytest.mark.parametrize("source", [COUNTS_MESSAGES, NUMBERS_MESSAGES, EVERY_TENTH])
def test_a_template_that_looks_further_than_a_window_renders_the_whole(renderer: Renderer, source: str) -> None:
    template = Template(renderer, source)
    writer = ConversationWriter(template)
    messages = [RULE, *talk(WHOLE + 21)]
    for _ in range(2):
        assert writer.write(messages, {}).text == template.render(messages)
        messages += [Message("assistant", "yes"), Message("user", "and?")]


def test_a_template_that_refuses_a_window_renders_the_whole(renderer: Renderer) -> None:
    later = "{% set first = messages[1].content %}{% if 'thing' in first and first != ' the 0th thing ' %}"
    source = later + "{{ raise_exception('no') }}{% endif %}" + CHATML
    template = Template(renderer, source)
    messages = [RULE, *talk(WHOLE + 21)]
    assert ConversationWriter(template).write(messages, {}).text == template.render(messages)


def test_changed_variables_render_the_past_again(renderer: Renderer) -> None:
    """For example a template whose system prompt says whether to think."""
    source = "{{ 'thinks' if enable_thinking else 'does not' }}\n" + CHATML
    template = Template(renderer, source)
    writer = ConversationWriter(template)
    messages = [RULE, *talk(WHOLE + 21)]
    for thinking in (True, False, True):
        variables = {"enable_thinking": thinking}
        assert writer.write(messages, variables).text == template.render(messages, variables)


def test_an_edited_past_is_rendered_again(renderer: Renderer) -> None:
    template = Template(renderer, CHATML)
    writer = ConversationWriter(template)
    messages = talk(WHOLE + 41)
    writer.write(messages, {})
    for at in (0, 1, 30, len(messages) - 1):
        messages[at] = Message(messages[at].role, "something else")
        assert writer.write(messages, {}).text == template.render(messages)
    assert writer.write(messages[:81], {}).text == template.render(messages[:81])


def test_length_of_a_common_beginning() -> None:
    assert [n_same(*pair) for pair in (("", "a"), ("abc", "abd"), ("abc", "abc"), ("x", "abc"), ("abc", "ab"))] == [
        0, 2, 3, 0, 2,
    ]  # fmt: skip

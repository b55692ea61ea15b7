"""Chat templates: the variables they get, and what they are not allowed to do."""

import datetime
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from edgeinfer.chat.template import CHATML, Renderer, Template
from edgeinfer.errors import ArtifactError, UsageError
from edgeinfer.types import Message, ToolCall

TALK = [
    Message("system", "Be brief."),
    Message("user", "Hé"),
    Message("assistant", "Yo"),
    Message("user", "And?"),
]
Open = Callable[..., Template]


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    one = Renderer()
    yield one
    one.close()


@pytest.fixture
def template(renderer: Renderer) -> Open:
    return lambda source, **words: Template(renderer, source, **words)


def test_chatml_by_hand(template: Open) -> None:
    assert template(CHATML).render(TALK) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHé<|im_end|>\n"
        "<|im_start|>assistant\nYo<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_bos_is_written_once(template: Open) -> None:
    assert template("{{ bos_token }}x{{ eos_token }}", bos="<s>", eos="</s>").render(TALK) == "<s>x</s>"
    source = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert template(source, bos="<s>").render(TALK) == "<s>Be brief.HéYoAnd?"


def test_templates_get_the_functions_that_those_on_the_hub_use(template: Open) -> None:
    source = (
        "{%- set ns = namespace(n=0) -%}\n"
        "{%- for m in messages -%}\n    {%- if m.role == 'assistant' %}{% continue %}{% endif -%}\n"
        "    {%- set ns.n = ns.n + 1 -%}\n{%- endfor -%}\n"
        "{{ ns.n }} {{ {'a': '<é>'} | tojson }} {{ strftime_now('%Y') }} {{ enable_thinking }} {{ tools is none }}"
        "{% generation %}!{% endgeneration %}"
    )
    text = template(source).render(TALK, variables={"enable_thinking": False})
    assert text == f'3 {{"a": "<é>"}} {datetime.datetime.now().year} False True!'


def test_a_template_may_change_lists_and_the_next_render_does_not_see_it(template: Open) -> None:
    """Kimi K2's collects the ids of calls so."""
    source = (
        "{% set seen = [] %}{% for m in messages %}{% set _ = seen.append(m.role) %}{% set _ = m.update(content='') %}"
        "{% endfor %}{{ seen | join }}{{ messages | length }}{% set _ = messages.clear() %}"
    )
    changing = template(source)
    assert changing.render(TALK) == changing.render(TALK) == "systemuserassistantuser4"


def test_json_of_what_a_filter_gives_is_a_list(template: Open) -> None:
    """DeepSeek R1's writes its tools so."""
    assert template("{{ messages | map(attribute='role') | tojson }}").render(TALK[:2]) == '["system", "user"]'
    assert template("{{ range(3) | tojson }}{{ {'a': 1}.items() | tojson }}").render(TALK) == '[0, 1, 2][["a", 1]]'
    with pytest.raises(ArtifactError, match="not JSON serializable"):
        template("{{ raise_exception | tojson }}").render(TALK)


TOOLS = {"tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]}
WITH_TOOLS = {
    "loop": "{% for tool in tools %}{{ tool.function.name }}{% endfor %}",  # Hermes, Command-R+
    "length": "{% if tools | length > 0 %}{{ tools[0].function.name }}{% endif %}",
    "functions": "{{ 'Functions: ' + functions }}{{ 'Today is ' + datetime }}",  # firefunction
    "documents": "{% for d in documents %}{{ d.text }}{% endfor %}{{ (tools or [{'function': {}}])[0].function.name }}",
}


@pytest.mark.parametrize("kind", WITH_TOOLS)
def test_a_template_that_takes_tools_for_granted_works_without_any(template: Open, kind: str) -> None:
    plain = template(CHATML).render(TALK)
    wanting = template(WITH_TOOLS[kind] + CHATML)
    assert wanting.render(TALK).endswith(plain)
    assert "look" in wanting.render(TALK, TOOLS)


def test_a_template_that_tests_for_tools_is_told_that_there_are_none(template: Open) -> None:
    source = "{{ tools is none }}{{ functions is defined }}{{ datetime is defined }}{{ documents is none }}"
    assert template(source).render(TALK) == "TrueFalseFalseTrue"


TYPED_CONTENT = {
    "written by type": (
        "{% for m in messages %}{{ m.role }}: {% for part in m['content'] %}{% if part['type'] == 'text' %}"
        "{{ part['text'] }}{% endif %}{% endfor %};{% endfor %}"
    ),
    "first part": "{% for m in messages %}{{ m.role }}: {{ m.content[0].text }};{% endfor %}",
    "fails": "{% for m in messages %}{{ m.role + ': ' + m.content[0]['text'] }};{% endfor %}",
    "both": (
        "{% for m in messages %}{{ m.role }}: {% if m.content is string %}{{ m.content }}{% else %}"
        "{{ m.content[0].text }}{% endif %};{% endfor %}"
    ),
}


@pytest.mark.parametrize("kind", TYPED_CONTENT)
def test_a_template_that_reads_parts_of_a_message_gets_parts(template: Open, kind: str) -> None:
    text = template(TYPED_CONTENT[kind]).render(TALK)
    assert text == "system: Be brief.;user: Hé;assistant: Yo;user: And?;"


def test_the_template_may_refuse_a_conversation(template: Open) -> None:
    refusing = template("{{ raise_exception('Conversation roles must\nalternate') }}")
    with pytest.raises(UsageError, match="refuses this conversation: Conversation roles must alternate"):
        refusing.render(TALK)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{{ ''.__class__.__mro__ }}", "it reads `__class__` of a str"),
        ("{{ messages.__class__ }}", "it reads `__class__` of a list"),
        ("{{ messages | attr('__class__') }}", "it reads `__class__`"),
        ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "it reads `__init__`"),
        ("{{ '{0.__class__}'.format(1) }}", "it reads `__class__`"),
        ("{{ ''.join.__self__ }}", "it reads `__self__`"),
        ("{{ raise_exception.__globals__ }}", "it reads `__globals__` of a function"),
        ("{{ self.__init__ }}", "it reads `__init__`"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{% import 'os' as os %}", "no loader"),
        ("{% for x in %}", "line 1"),
        ("{{ nothing.more }}", "'nothing' is undefined"),
        ("{{ 'x' * 10 ** 10 }}", "takes more than 512 MB"),
        ("{% for i in range(99999) %}{% for j in range(999) %}aaaa{% endfor %}{% endfor %}", "writes more than"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}", "512 MB"),
    ],
)
def test_a_hostile_template_is_refused_in_one_line(template: Open, source: str, says: str) -> None:
    with pytest.raises(ArtifactError, match=says) as caught:
        template(source).render(TALK)
    assert "\n" not in str(caught.value)
    assert "--template chatml" in caught.value.hint


def test_an_endless_template_is_ended(renderer: Renderer) -> None:
    """It gets two seconds of processor time; the renderer then serves the next request."""
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    endless = Template(renderer, loop)
    began = time.monotonic()
    with pytest.raises(ArtifactError, match="takes too long"):
        endless.render(TALK)
    assert time.monotonic() - began < 20
    assert Template(renderer, "{{ messages | length }}").render(TALK) == "4"


@pytest.mark.parametrize(
    "source", ["{{ 1 / 0 }}", "{{ ['a'].index('user') }}", "{{ raise_exception('no') }}", "{{ x.y }}"]
)
def test_a_probe_that_fails_returns_none(template: Open, source: str) -> None:
    assert template(source).probe(TALK) is None


def test_the_renderer_works_after_a_probe_that_took_too_long(template: Open) -> None:
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    slow_at_length = template(f"{{% if messages | length > 1 %}}{endless}{{% endif %}}{{{{ messages | length }}}}")
    assert slow_at_length.probe(TALK) is None
    assert slow_at_length.render(TALK[:1]) == "1"


def test_a_renderer_that_was_closed_starts_again(renderer: Renderer) -> None:
    template = Template(renderer, "{{ messages | length }}")
    renderer.close()
    renderer.close()
    assert template.render(TALK) == "4"


CALLED = [
    Message("user", "Rain?"),
    Message("assistant", "", tool_calls=(ToolCall("weather", '{"city": "Oslo"}', "call_5d4f0c0a1b"),)),
    Message("tool", "yes", call_id="call_5d4f0c0a1b", name="weather"),
    Message("user", "So?"),
]
NINE = (
    "{% for m in messages %}{% for c in m.tool_calls or [] %}"
    "{% if c.id|length != 9 %}{{ raise_exception('ids have length 9') }}{% endif %}[{{ c.id }}]{% endfor %}"
    "{% if m.role == 'tool' %}[{{ m.tool_call_id }}]{% endif %}{% endfor %}"
)
ADDS_TEXT = (
    "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.name ~ ' ' + c.function.arguments }}"
    "{% endfor %}{% endfor %}"
)


def test_call_ids_have_nine_characters_where_a_template_requires_it(template: Open) -> None:
    """A call and its result share an id. Clients send ids of 20 characters and more."""
    call, result = re.findall(r"\[(\w{9})\]", template(NINE).render(CALLED))
    assert call == result
    talk = [replace(message, tool_calls=(ToolCall("f", "{}", "abcdefghi"),)) if message.tool_calls else message
            for message in CALLED[:2]]  # fmt: skip
    assert template(NINE).render(talk) == "[abcdefghi]"
    assert "[call_5d4f0c0a1b]" in template(NINE.replace("length != 9", "length < 9")).render(CALLED)


def test_arguments_are_text_where_a_template_cannot_write_an_object(template: Open) -> None:
    assert template(ADDS_TEXT).render(CALLED).endswith('{"city": "Oslo"}')
    with pytest.raises(ArtifactError, match="can only concatenate"):
        template(ADDS_TEXT + "{{ 1 / 0 }}").render(CALLED)

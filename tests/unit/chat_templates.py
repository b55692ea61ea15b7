"""Small chat templates, one of each kind that models ship, and a tokenizer that fits all of them."""

from __future__ import annotations

import re

from edgeinfer.chat.template import CHATML

LOOP = "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
EOS_INSTEAD_OF_AN_OPENING = LOOP + "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
ALWAYS_OPENED = LOOP + "<|assistant|>\n"
TRIMMED = (
    "{{ bos_token }}{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TRIMMED
DROPPED_SYSTEM = (
    "{% for m in messages if m.role != 'system' %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SYSTEM_IN_QUESTION = (
    "{{ bos_token }}{% set ns = namespace(s='') %}{% for m in messages %}{% if m.role == 'system' %}"
    "{% set ns.s = '<<SYS>>\n' + m.content + '\n<</SYS>>\n\n' %}{% elif m.role == 'user' %}"
    "{{ '[INST] ' + ns.s + m.content + ' [/INST]' }}{% set ns.s = '' %}"
    "{% else %}{{ ' ' + m.content + ' </s>' }}{% endif %}{% endfor %}"
)
SYSTEM_IN_LAST_QUESTION = (
    "{% set s = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}"
    "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}"
    "{{ '[INST]' + (s if loop.last else '') + m.content + '[/INST]' }}{% else %}{{ m.content + '</s>' }}{% endif %}"
    "{% endfor %}"
)
PLAIN_TURNS = (
    "{% for m in messages %}{{ '### ' + m.role | capitalize + ':\n' + m.content + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}### Assistant:\n{% endif %}"
)
LOOKS_BACK = (
    "{% for m in messages %}{% set outer = loop.index0 %}{% set ns = namespace(before='') %}"
    "{% for n in range(outer) %}{% for k in range(3) %}{% set ns.before = messages[n].role %}{% endfor %}{% endfor %}"
    "{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WANTS_A_QUESTION = (
    "{% if messages | selectattr('role', 'equalto', 'user') | list == [] %}{{ raise_exception('no') }}{% endif %}"
    + CHATML
)
INDEXES_A_QUESTION = "{% set first = (messages | map(attribute='role') | list).index('user') %}" + CHATML
KINDS = {
    "chatml": CHATML,
    "eos instead of an opening": EOS_INSTEAD_OF_AN_OPENING,
    "always opened": ALWAYS_OPENED,
    "trimmed": TRIMMED,
    "no system": NO_SYSTEM,
    "dropped system": DROPPED_SYSTEM,
    "system in question": SYSTEM_IN_QUESTION,
    "system in last question": SYSTEM_IN_LAST_QUESTION,
    "plain turns": PLAIN_TURNS,
    "looks back": LOOKS_BACK,
    "wants a question": WANTS_A_QUESTION,
    "indexes a question": INDEXES_A_QUESTION,
}


class Characters:
    """One token per character and per control text. Control tokens have ids below 1000 and no text."""

    n_vocab = 1_200_000
    stop_tokens: frozenset[int] = frozenset()
    chat_template = None
    bos_text, eos_text = "<s>", "</s>"

    def __init__(self, *control: str) -> None:
        self.control = control
        self.control_texts = frozenset(control)
        longest_first = sorted(control, key=len, reverse=True)
        self._words = re.compile("|".join([*map(re.escape, longest_first), r"[\s\S]"]))

    def encode(self, text: str, *, special: bool) -> list[int]:
        words = self._words.findall(text) if special else text
        return [self.control.index(word) if word in self.control else 1000 + ord(word) for word in words]

    def piece(self, token: int) -> bytes:
        return b"" if token < 1000 else chr(token - 1000).encode()

    def show(self, tokens: object) -> str:
        return "".join(self.control[t] if t < 1000 else chr(t - 1000) for t in tokens)  # type: ignore[attr-defined]

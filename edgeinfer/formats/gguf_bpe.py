"""How each kind of byte-level BPE cuts text before it merges, by GGUF's `tokenizer.ggml.pre`.

The patterns are those of the models' own tokenizer.json files; src/llama-vocab.cpp of llama.cpp gives the names.
"""

from __future__ import annotations

from dataclasses import dataclass

_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACE = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _gpt4(digits: str) -> str:
    return rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACE}"


_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACE}"
)


@dataclass(frozen=True, slots=True)
class Splitting:
    """Regular expressions, one after the other; `whole_first`: a word that is a token is not merged up to it."""

    patterns: tuple[str, ...]
    whole_first: bool = False
    add_bos: bool = False  # unless the file says otherwise


_LLAMA3 = Splitting((_gpt4(r"\p{N}{1,3}"),), whole_first=True, add_bos=True)
_QWEN2 = Splitting((_gpt4(r"\p{N}"),))
_DIGITS_THEN_GPT2 = Splitting((r"\p{N}", _GPT2))

SPLITTINGS = {
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "gpt-2": Splitting((_GPT2,)),
    "smollm": _DIGITS_THEN_GPT2,
    "starcoder": _DIGITS_THEN_GPT2,
    "refact": _DIGITS_THEN_GPT2,
    "command-r": _DIGITS_THEN_GPT2,
    "gpt-4o": Splitting((_GPT4O,)),
    "llama4": Splitting((_GPT4O,)),
}

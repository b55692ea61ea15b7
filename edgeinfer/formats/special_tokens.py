"""Which tokens end an answer, and which are control tokens by their text, as llama.cpp decides (src/llama-vocab.cpp).

Files often name one of several end tokens in their metadata and mark others as plain words, so the text decides too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["SpecialTokens", "special_tokens"]

_ENDS = frozenset(
    {
        *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>"),
        *("<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>"),
        *("<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~["),
    }
)
# A file that is filled in continues with padding or with the next file: there an answer ends too.
_FILLS = {
    "fim_pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep": ("<|file_sep|>",),
}
_NAMED = ("eos", "eot", "eom", *_FILLS)
_PLAIN_WORDS = frozenset({"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"})  # of gpt-oss


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """`control` and `words` are tokens whose type the file may have wrong: silent ones, and plain words."""

    ends: frozenset[int]
    control: frozenset[int]
    words: frozenset[int]


def special_tokens(ids: Mapping[str, int], named: Mapping[str, int]) -> SpecialTokens:
    """`ids`: token ids by text; `named`: those that the file's metadata names, by role ("eos", "fim_pad", ...)."""
    fills = {
        next((ids[text] for text in texts if text in ids), -1) for role, texts in _FILLS.items() if role not in named
    } - {-1}
    control = {ids[text] for text in _ENDS if text in ids} | fills
    ends = {named[role] for role in _NAMED if role in named} | control

    def has(*texts: str) -> bool:
        return any(ids.get(text, -1) in ends for text in texts)

    words = {ids[text] for text in _PLAIN_WORDS if text in ids}
    if (
        has("<|end|>")
        and has("<|call|>", "<|calls|>")
        and ((has("<|return|>") and has("<|call|>")) or has("<|flush|>"))
    ):
        words.add(ids["<|end|>"])  # it ends a message, not the answer
    if has("</s>") and has("<|tool_response>", "<|plamo:eos|>"):
        words.add(ids["</s>"])
    return SpecialTokens(frozenset(ends - words), frozenset(control - words), frozenset(words))

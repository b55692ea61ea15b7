"""The tokenizer in a GGUF, run by llama.cpp."""

from __future__ import annotations

import ctypes
from functools import cached_property
from typing import Final

import numpy as np

from edgeinfer.backends.gguf.llama import C, LlamaModel, library_function, quick_function

PieceBuffer = ctypes.c_char * 64  # enough for nearly every token
_piece: Final = quick_function(
    "llama_token_to_piece",
    ctypes.c_int32,
    *(ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_bool),
)
_tokenize: Final = library_function(
    "llama_tokenize",
    ctypes.c_int32,
    *(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32, ctypes.c_bool, ctypes.c_bool),
)


class LlamaTokenizer:
    """See protocols.Tokenizer. It lives as long as its model."""

    def __init__(self, model: LlamaModel) -> None:
        self._vocab = model.vocab
        self.n_vocab = model.n_vocab
        self.chat_template = model.metadata("tokenizer.chat_template")
        self.bos_text = self._text(C.llama_vocab_bos(self._vocab)) if C.llama_vocab_get_add_bos(self._vocab) else ""
        self.eos_text = self._text(C.llama_vocab_eos(self._vocab))

    @cached_property
    def stop_tokens(self) -> frozenset[int]:
        is_eog = C.llama_vocab_is_eog
        return frozenset(token for token in range(self.n_vocab) if is_eog(self._vocab, token))

    @cached_property
    def control_texts(self) -> frozenset[str]:
        attributes, control = C.llama_vocab_get_attr, C.LLAMA_TOKEN_ATTR_CONTROL | C.LLAMA_TOKEN_ATTR_UNKNOWN
        found = (token for token in range(self.n_vocab) if attributes(self._vocab, token) & control)
        return frozenset(text for token in found if (text := self._text(token)))

    def encode(self, text: str, *, special: bool) -> list[int]:
        data = text.encode("utf-8", "replace")  # a lone surrogate becomes "?"
        room = len(data) + 8
        while True:
            tokens = np.empty(room, np.int32)  # a ctypes array would be a new type for each length
            n: int = _tokenize(self._vocab, data, len(data), tokens.ctypes.data, room, False, special)
            if n >= 0:
                found: list[int] = tokens[:n].tolist()
                return found
            room = -n

    def piece(self, token: int) -> bytes:
        buffer = PieceBuffer()  # one for each call: threads may share a tokenizer
        n = _piece(self._vocab, token, buffer, len(buffer), 0, False)
        if n < 0:
            buffer = (ctypes.c_char * -n)()
            n = _piece(self._vocab, token, buffer, len(buffer), 0, False)
        return buffer.raw[:n]

    def _text(self, token: int) -> str:
        if token < 0:
            return ""
        text: bytes = C.llama_vocab_get_text(self._vocab, token)
        return text.decode("utf-8", "replace")

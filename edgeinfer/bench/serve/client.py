"""A client that reads one streamed chat completion and notes when each piece came."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final, TypeAlias, TypeVar

from edgeinfer.errors import EngineError

Messages: TypeAlias = Sequence[tuple[str, str]]  # role, text

TIMEOUT_S: Final = 300.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Streamed:
    """Times are those of `perf_counter`; `pieces` has one for each piece of text, the first token's first."""

    asked_s: float
    pieces: tuple[float, ...]
    ended_s: float
    n_prompt: int
    n_tokens: int
    text: str

    @property
    def first_s(self) -> float:
        return self.pieces[0] - self.asked_s

    @property
    def writing_s(self) -> float:
        """From the first token to the last."""
        return self.pieces[-1] - self.pieces[0]


def stream(
    port: int,
    model: str,
    messages: Messages,
    max_tokens: int,
    on_piece: Callable[[int], None] = lambda _: None,
    *,
    never: Sequence[int] = (),
) -> Streamed:
    """Greedy without a penalty, so that servers with other defaults choose alike, and without the tokens in `never`.

    `on_piece` gets the number of pieces so far.

    Raises EngineError for any answer but a whole one.
    """
    body = {
        "model": model,
        "messages": [{"role": role, "content": text} for role, text in messages],
        "max_tokens": max_tokens,
        "temperature": 0,
        "repeat_penalty": 1,
        "logit_bias": {str(token): -100 for token in never},
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    pieces, texts, usage = list[float](), list[str](), dict[str, Any]()
    asked = perf_counter()
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise EngineError(f"the server answered {response.status}: {response.read(500).decode('utf-8', 'replace')}")
        for chunk in chunks(response):
            usage = chunk.get("usage") or usage
            for choice in chunk.get("choices", ()):
                delta = choice["delta"]
                if text := (delta.get("content") or "") + (delta.get("reasoning_content") or ""):
                    pieces.append(perf_counter())
                    texts.append(text)
                    on_piece(len(pieces))
    finally:
        connection.close()
    if not pieces or not usage:
        raise EngineError("an answer without a token, or cut off")
    n_prompt, n_tokens = usage["prompt_tokens"], usage["completion_tokens"]
    return Streamed(asked, tuple(pieces), perf_counter(), n_prompt, n_tokens, "".join(texts))


def chunks(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    for line in response:
        data = line.removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
        if data and data != b"[DONE]":
            yield json.loads(data)


def together(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Run `calls` at the same time, a thread for each."""
    with ThreadPoolExecutor(len(calls)) as threads:
        return [call.result() for call in [threads.submit(call) for call in calls]]

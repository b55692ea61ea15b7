"""Mixed load on a server, by hand: `python -m tests.serve.soak SECONDS`. Prints counts, and the growth of memory.

Clients ask in three protocols, leave in the middle, send what cannot be used, and read slowly. Every reply must be an
answer or an error in its envelope; at the end nothing may run, and the same request must have the answer of the start.
"""

from __future__ import annotations

import json
import random
import socket
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import psutil

from edgeinfer.serve.http.safety import Access
from tests.serve.conftest import Server, running

N_CLIENTS = 8
WARM_UP = 0.3  # of the time, before memory is compared
TEXTS = ("Hi", "Who are you?", "Tell me a story. ", "List three colors. ")
USABLE = {200, 400, 429}


def chat(server: Server, chance: random.Random) -> int:
    text = chance.choice(TEXTS) * chance.choice((1, 1, 5, 40))
    how: dict[str, object] = {"temperature": chance.choice((0, 1)), "seed": chance.randrange(4)}
    if chance.random() < 0.2:
        how["response_format"] = {"type": "json_object"}
    return server.chat(text, max_tokens=chance.choice((1, 20, 60)), stream=chance.random() < 0.5, **how).status


def other(server: Server, chance: random.Random) -> int:
    messages = [{"role": "user", "content": chance.choice(TEXTS)}]
    if chance.random() < 0.5:
        return server.ask("/v1/messages", {"model": "demo", "max_tokens": 20, "messages": messages}).status
    return server.ask("/api/chat", {"model": "demo", "messages": messages, "options": {"num_predict": 20}}).status


def wrong(server: Server, chance: random.Random) -> int:
    body = chance.choice((b"{", b"[]", b'{"model": "demo"}', b'{"model": "demo", "messages": [{"role": 1}]}'))
    reply = server.ask("/v1/chat/completions", body)
    assert reply.json["error"]["message"]
    return reply.status


def leave(server: Server, chance: random.Random) -> int:
    message = {"role": "user", "content": "Tell me a story. " * chance.choice((1, 50))}
    data = json.dumps({"model": "demo", "messages": [message], "max_tokens": 500, "stream": True}).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as opened:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
        opened.sendall(head.encode() + data)
        time.sleep(chance.random())
    return 200


def client(server: Server, number: int, until: float) -> Counter[int]:
    chance, seen = random.Random(number), Counter[int]()
    while time.monotonic() < until:
        act = chance.choices((chat, other, wrong, leave), (6, 3, 1, 2))[0]
        seen[act(server, chance)] += 1
    return seen


def main(seconds: float) -> None:
    process = psutil.Process()
    for server in running(Access("127.0.0.1")):
        before = server.chat("Who are you?", temperature=0).json["choices"]
        until = time.monotonic() + seconds
        with ThreadPoolExecutor(N_CLIENTS) as pool:
            clients = [pool.submit(client, server, number, until) for number in range(N_CLIENTS)]
            time.sleep(WARM_UP * seconds)
            warm = process.memory_info().rss
            seen = sum((one.result() for one in clients), Counter[int]())
        server.until_idle()
        assert set(seen) <= USABLE, seen
        assert server.chat("Who are you?", temperature=0).json["choices"] == before
        growth = process.memory_info().rss / warm - 1
        print(
            f"{seconds:.0f} s, replies by status {dict(seen)}, {server.served.scheduler.counts}, memory {growth:+.1%}"
        )


if __name__ == "__main__":
    main(float(sys.argv[1]))

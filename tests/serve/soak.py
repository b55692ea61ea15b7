"""Mixed load on a server, by hand: `python -m tests.serve.soak SECONDS`. Prints a report; fails on a broken promise.

Clients ask in three protocols, leave in the middle, break off, are processes that are killed, send what cannot be used,
and read slowly. They come in bursts of which not all may wait. Every reply must be a whole answer or an error in its
envelope; at the end nothing may run, and the same request must have the answer of the start. The server is a process
of its own, whose memory is read. Its prefix cache is small, so that it is full before memory is compared.
"""

from __future__ import annotations

import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress

import psutil

from edgeinfer.bench.serve.servers import free_port, running
from tests.serve.conftest import Reply, asked

N_CLIENTS = 8
PATIENCE_S = 600  # of a client: on a busy machine a request may wait for its place as long as the server lets it
WARM_UP = 0.3  # share of the time before memory is compared
MAX_GROWTH = 0.01
EVERY_S = 60.0  # memory is noted
TEXTS = ("Hi", "Who are you?", "Tell me a story. ", "List three colors. ")
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset
N_AT_ONCE = 32  # of a burst: more than run and may wait
SIZE = ("--conversations", 4, "--context", 1024, "--sink", 512, "--prefix-memory", 16, "--prefix-disk", 32)
COUNTED = ("finished", "canceled", "failed", "refused", "prompt", "reused", "emitted", "drafted", "accepted")
PLACES = (("memory", "in memory"), ("disk", "on disk"))
ASKS = """
import socket, sys
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
connection.sendall(sys.stdin.buffer.read())
while connection.recv(64): pass
"""


def ask(port: int, path: str, body: object = None) -> Reply:
    return asked(f"http://127.0.0.1:{port}{path}", body, timeout_s=PATIENCE_S)


def ask_chat(port: int, text: str, **how: object) -> Reply:
    messages = [{"role": "user", "content": text}]
    return ask(port, "/v1/chat/completions", {"model": "demo", "messages": messages, "max_tokens": 20, **how})


def chat(port: int, chance: random.Random) -> str:
    text = chance.choice(TEXTS) * chance.choice((1, 1, 5, 40))
    how: dict[str, object] = {"temperature": chance.choice((0, 1)), "seed": chance.randrange(4)}
    if chance.random() < 0.2:
        how["response_format"] = {"type": "json_object"}
    stream = chance.random() < 0.5
    reply = ask_chat(port, text, max_tokens=chance.choice((1, 20, 60)), stream=stream, **how)
    if stream and reply.status == 200:
        return "answered" if reply.body.endswith(b"data: [DONE]\n\n") else "lost"
    return outcome(reply, "choices")


def other(port: int, chance: random.Random) -> str:
    messages = [{"role": "user", "content": chance.choice(TEXTS)}]
    if chance.random() < 0.5:
        body = {"model": "demo", "max_tokens": 20, "messages": messages}
        return outcome(ask(port, "/v1/messages", body), "content")
    body = {"model": "demo", "messages": messages, "stream": False, "options": {"num_predict": 20}}
    return outcome(ask(port, "/api/chat", body), "message")


def outcome(reply: Reply, answer: str) -> str:
    if reply.status == 200:
        return "answered" if answer in reply.json else "lost"
    typed = reply.status in (400, 429) and reply.json["error"]
    return f"refused with {reply.status}" if typed else f"lost with {reply.status}"


def wrong(port: int, chance: random.Random) -> str:
    body = chance.choice((b"{", b"[]", b'{"model": "demo"}', b'{"model": "demo", "messages": [{"role": 1}]}'))
    return outcome(ask(port, "/v1/chat/completions", body), "")


def long_request(chance: random.Random) -> bytes:
    message = {"role": "user", "content": "Tell me a story. " * chance.choice((1, 50))}
    data = json.dumps({"model": "demo", "messages": [message], "max_tokens": 500, "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def opened(port: int, chance: random.Random) -> socket.socket:
    """A connection that has asked for a long answer."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    connection.sendall(long_request(chance))
    return connection


def leave(port: int, chance: random.Random) -> str:
    with opened(port, chance):
        time.sleep(chance.random())
    return "left"


def break_off(port: int, chance: random.Random) -> str:
    with opened(port, chance) as connection:
        time.sleep(chance.random())
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    return "broken off"


def be_killed(port: int, chance: random.Random) -> str:
    with subprocess.Popen([sys.executable, "-S", "-c", ASKS, str(port)], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(long_request(chance))
        process.stdin.close()
        time.sleep(2 * chance.random())
        process.kill()
    return "killed"


def burst(port: int, chance: random.Random) -> str:
    connections = [opened(port, chance) for _ in range(N_AT_ONCE)]
    time.sleep(1)
    refused = 0
    for connection in connections:
        with connection:
            connection.setblocking(False)
            with suppress(BlockingIOError):
                refused += connection.recv(16).startswith(b"HTTP/1.1 429")
    return "burst, some refused with 429" if refused else "burst, none refused"


def read_slowly(port: int, chance: random.Random) -> str:
    with opened(port, chance) as connection:
        for _ in range(20):
            if not connection.recv(16):
                break
            time.sleep(0.2)
    return "read slowly"


def client(port: int, number: int, until: float) -> Counter[str]:
    chance, seen = random.Random(number), Counter[str]()
    while time.monotonic() < until:
        acts = (chat, other, wrong, leave, break_off, be_killed, read_slowly, burst)
        act = chance.choices(acts, (48, 24, 8, 8, 8, 8, 4, 1))[0]
        seen[act(port, chance)] += 1
    return seen


def metrics(port: int) -> Mapping[str, float]:
    """By name, as in `edgeinfer_NAME`; the server has one model."""
    text = ask(port, "/metrics").body.decode()
    return {name: float(value) for name, value in re.findall(r"^edgeinfer_(\w+)\{.*\} (\S+)$", text, re.MULTILINE)}


def wait_until_idle(port: int) -> None:
    for _ in range(1000):
        now = metrics(port)
        if not now["running"] and not now["waiting"]:
            return
        time.sleep(0.01)
    raise AssertionError("an answer still runs")


def main(seconds: float) -> None:
    port = free_port()
    command = (sys.executable, "-m", "edgeinfer", "serve", "demo", *SIZE, "--offline", "--port", port)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # of the prefixes on disk
        with running("edgeinfer", command, port):
            (process,) = psutil.Process().children()
            soak(port, process, seconds)


def soak(port: int, process: psutil.Process, seconds: float) -> None:
    before = ask_chat(port, "Who are you?", temperature=0).json["choices"]
    began = time.monotonic()
    memory: list[tuple[float, int]] = []
    with ThreadPoolExecutor(N_CLIENTS) as pool:
        clients = [pool.submit(client, port, number, began + seconds) for number in range(N_CLIENTS)]
        while wait(clients, timeout=min(EVERY_S, WARM_UP * seconds)).not_done:
            memory.append((time.monotonic() - began, process.memory_info().rss))
        seen = sum((one.result() for one in clients), Counter[str]())
    wait_until_idle(port)
    memory.append((time.monotonic() - began, process.memory_info().rss))
    growth = memory[-1][1] / next(rss for at, rss in memory if at >= WARM_UP * seconds) - 1
    same = ask_chat(port, "Who are you?", temperature=0).json["choices"] == before
    print("\n".join(report(seconds, seen, metrics(port), memory, growth, same=same)))
    assert same and not any(what.startswith("lost") for what in seen) and growth <= MAX_GROWTH


def report(
    seconds: float,
    seen: Counter[str],
    counted: Mapping[str, float],
    memory: Sequence[tuple[float, int]],
    growth: float,
    *,
    same: bool,
) -> Iterator[str]:
    yield f"# The server under mixed load for {seconds / 60:.0f} minutes\n"
    size = " ".join(str(part) for part in SIZE)
    yield f"`python -m tests.serve.soak {seconds:.0f}`: {N_CLIENTS} clients, `edgeinfer serve demo {size}`.\n"
    yield "| what became of a request | times |\n|---|---:|"
    yield from (f"| {what} | {n} |" for what, n in sorted(seen.items()))
    lost = sum(n for what, n in seen.items() if what.startswith("lost"))
    counts = ", ".join(f"{counted[f'{name}_total']:.0f} {name}" for name in COUNTED)
    yield f"\nLost: {lost}. The server counted answers and tokens: {counts}."
    kept = (f"{counted[f'prefix_{place}_bytes'] / 1e6:.1f} MB {where}" for place, where in PLACES)
    yield f"Prefixes kept: {', '.join(kept)}; {counted['prefix_evicted_blocks_total']:.0f} blocks left memory."
    yield f"The same request has the answer of the start: {'yes' if same else '**no**'}.\n"
    yield f"Resident memory of the server, after {WARM_UP:.0%} of the time and at the end: {growth:+.2%}."
    noted = memory[:: max(1, len(memory) // 10)]
    yield f"In MB: {', '.join(f'{rss / 1e6:.1f} after {at:.0f} s' for at, rss in noted)}."
    yield f"Load average at the end: {os.getloadavg()[0]:.1f}, on {os.cpu_count()} cores."


if __name__ == "__main__":
    main(float(sys.argv[1]))

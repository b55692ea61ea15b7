"""Ten thousand mutated headers: each is read or refused by ArtifactBad, quickly and in little memory."""

from __future__ import annotations

import struct
import time
import tracemalloc
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.errors import ArtifactBad
from edgeinfer.formats.gguf_checks import check_model
from edgeinfer.formats.gguf_header import parse_header
from edgeinfer.formats.gguf_tokenizer import GgufTokenizer
from edgeinfer.formats.shape import facts_from_gguf
from tests import gguf_bytes as g

BASE = g.file()
N_HEADER = len(g.header())
NASTY = [0, 1, 7, 8, 31, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**61, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
OUTCOMES = {"read": 0, "refused": 0}

HEADERS_PER_EXAMPLE = 25
KINDS = ("flip", "word", "half", "cut", "drop", "repeat")  # `repeat` makes duplicate keys and tensors
Mutation = tuple[str, int, int]


def mutated(raw: bytes, mutation: Mutation) -> bytes:
    kind, at, value = mutation
    if kind == "flip":
        return raw[:at] + bytes([raw[at] ^ value]) + raw[at + 1 :] if at < len(raw) else raw
    if kind == "word":
        return raw[:at] + struct.pack("<Q", value) + raw[at + 8 :]
    if kind == "half":
        return raw[:at] + struct.pack("<I", value & 0xFFFFFFFF) + raw[at + 4 :]
    if kind == "cut":
        return raw[:at]
    return raw[:at] + raw[at + value :] if kind == "drop" else raw[: at + value] + raw[at:]


def mutation(random: Random) -> Mutation:
    kind = random.choice(KINDS)
    value = random.choice(NASTY) if kind in ("word", "half") else random.randint(1, 64)
    return kind, random.randrange(N_HEADER - 8), value


def read(raw: bytes) -> str:
    tracemalloc.reset_peak()
    start = time.thread_time()
    try:
        header = parse_header(lambda offset, n: raw[offset : offset + n], len(raw), "x")
        check_model(header, "x")
        facts_from_gguf(header)
        GgufTokenizer(header)
        outcome = "read"
    except ArtifactBad as error:
        outcome = "refused"
        assert "\n" not in str(error)
        assert len(str(error)) < 500
    assert time.thread_time() - start < 2.0  # seconds of this thread: a hang, not a slow machine
    assert tracemalloc.get_traced_memory()[1] < 200e6
    return outcome


@settings(max_examples=10_000 // HEADERS_PER_EXAMPLE, derandomize=True, database=None, deadline=None)
@given(st.integers(0, 2**64))
def mutate_and_read(seed: int) -> None:
    random = Random(seed)
    for _ in range(HEADERS_PER_EXAMPLE):
        raw = BASE
        for _ in range(random.randint(1, 3)):
            raw = mutated(raw, mutation(random))
        OUTCOMES[read(raw)] += 1


def test_ten_thousand_mutated_headers() -> None:
    tracemalloc.start()
    try:
        mutate_and_read()
    finally:
        tracemalloc.stop()
    assert sum(OUTCOMES.values()) >= 10_000
    assert OUTCOMES["read"] > 100, "the mutations no longer reach sound files"
    assert OUTCOMES["refused"] > 5_000

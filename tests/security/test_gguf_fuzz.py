"""Ten thousand mutated headers: each is read, or refused with ArtifactError, quickly and in little memory."""

from __future__ import annotations

import resource
import struct
import sys
import time
import tracemalloc
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.errors import ArtifactError
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
TRACED_EVERY = 5  # tracing triples the time
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
    start = time.thread_time()
    try:
        header = parse_header(lambda offset, n: raw[offset : offset + n], len(raw), "x")
        check_model(header, "x")
        facts_from_gguf(header)
        GgufTokenizer(header)
        outcome = "read"
    except ArtifactError as error:
        outcome = "refused"
        assert "\n" not in str(error)
        assert len(str(error)) < 500
    assert time.thread_time() - start < 2.0  # seconds of this thread: a hang, not a slow machine
    return outcome


@settings(max_examples=10_000 // HEADERS_PER_EXAMPLE, derandomize=True, database=None, deadline=None)
@given(st.integers(0, 2**64))
def mutate_and_read(seed: int) -> None:
    random = Random(seed)
    if traced := seed % TRACED_EVERY == 0:
        tracemalloc.start()
    for _ in range(HEADERS_PER_EXAMPLE):
        raw = BASE
        for _ in range(random.randint(1, 3)):
            raw = mutated(raw, mutation(random))
        OUTCOMES[read(raw)] += 1
    if traced:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20e6  # a tenth of the documented bound, because these files have 30 kB


def test_ten_thousand_mutated_headers() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    mutate_and_read()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * (1 if sys.platform == "darwin" else 1024) < 200e6
    assert sum(OUTCOMES.values()) >= 10_000
    assert OUTCOMES["read"] > 100, "the mutations no longer reach sound files"
    assert OUTCOMES["refused"] > 5_000

"""A block in a file: a header that says what it is, the K and V, and a checksum of both.

A file may come from another engine, another model, a broken disk or a stranger: `decode` gives the payload only where
every field is the expected one and the checksum is right. llama.cpp itself would take a payload with a flipped bit.
"""

from __future__ import annotations

import hashlib
import json
from typing import Final

from edgeinfer.serve.store.blocks import Block

MAGIC: Final = b"EDGEKV\x00\x01"  # the last byte is the version of this format
_LENGTH_BYTES: Final = 4  # of the header's length, little-endian
_SHA256_BYTES: Final = 32


def encode(identity: str, block: Block, payload: bytes) -> bytes:
    header = _header(identity, block, len(payload))
    body = b"".join((MAGIC, len(header).to_bytes(_LENGTH_BYTES, "little"), header, payload))
    return body + hashlib.sha256(body).digest()


def decode(data: bytes, identity: str, block: Block) -> bytes:
    """The payload of `block`. Raises ValueError, with the reason, for any other record or a damaged one."""
    n_payload = len(data) - record_bytes(identity, block, 0)
    if n_payload < 0:
        raise ValueError("it is shorter than a record of this block")
    expected = _header(identity, block, n_payload)
    start = len(MAGIC) + _LENGTH_BYTES + len(expected)
    if data[:start] != b"".join((MAGIC, len(expected).to_bytes(_LENGTH_BYTES, "little"), expected)):
        raise ValueError("it is the record of another block, model or engine")
    if hashlib.sha256(memoryview(data)[:-_SHA256_BYTES]).digest() != data[-_SHA256_BYTES:]:
        raise ValueError("its checksum is wrong")
    return data[start:-_SHA256_BYTES]


def record_bytes(identity: str, block: Block, n_payload: int) -> int:
    """Bytes of a record with a payload of `n_payload`."""
    return len(MAGIC) + _LENGTH_BYTES + len(_header(identity, block, n_payload)) + n_payload + _SHA256_BYTES


def _header(identity: str, block: Block, n_payload: int) -> bytes:
    fields = {
        "identity": identity,
        "parent": block.parent.hex(),
        "digest": block.digest.hex(),
        "start": block.start,
        "tokens": block.tokens.tolist(),
        "payload_bytes": f"{n_payload:012d}",
    }
    return json.dumps(fields).encode()

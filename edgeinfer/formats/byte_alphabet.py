"""GPT-2's alphabet for bytes, which byte-level BPE vocabularies are written in."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["BYTES"]


def _alphabet() -> dict[str, bytes]:
    """GPT-2's printable stand-in for each byte: itself where it is visible Latin-1, else the next code from 256 on."""
    visible: Sequence[int] = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    alphabet = {chr(byte): bytes([byte]) for byte in visible}
    return alphabet | {chr(256 + rank): bytes([byte]) for rank, byte in enumerate(hidden)}


BYTES = _alphabet()

"""A GGUF header, checked before any engine sees the file.

The layout is that of ggml/include/gguf.h (versions 2 and 3, little-endian). Nothing is trusted: every count, length and
offset is compared with the size of the file and the limits below, so that no header can make the reader use much memory
or time. Raises ArtifactError with the byte offset and the values.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias, overload

from edgeinfer.errors import ArtifactError
from edgeinfer.formats.gguf_oddities import ODDITIES, Odd, odd_head, odd_type, odd_version, report
from edgeinfer.formats.gguf_types import ARRAY, BOOL, GGML_TYPES, SCALARS, STRING, GgmlType
from edgeinfer.named_files import open_file

__all__ = ["GgufArray", "GgufHeader", "TensorInfo", "Value", "parse_header", "read_header"]

MAX_HEADER_BYTES = 64 << 20  # the largest known (a 262k vocabulary with 515k merges) is about 16 MB
MAX_ELEMENTS = 2_000_000  # of all arrays together
MAX_KEYS = 16_384
MAX_TENSORS = 65_536
MAX_NAME_BYTES = 63  # ggml keeps a tensor's name in 64 bytes with its NUL
MAX_KEY_BYTES = 1024
MAX_TEXT_BYTES = 8 << 20  # of one string that is not in an array; the longest known are templates of some 100 kB
MAX_ALIGNMENT = 1 << 20
FIRST_READ = 256 << 10

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class GgufArray(Sequence["str | int | float | bool"]):
    """An array of the metadata. Its elements become Python values all at once, when the first is read."""

    def __init__(self, kind: int, count: int, raw: memoryview) -> None:
        self.kind = kind  # of one element, as in gguf.h
        self.raw = raw  # the elements as in the file: strings with their 8-byte lengths
        self._count = count

    @cached_property
    def values(self) -> tuple[str | int | float | bool, ...]:
        if self.kind != STRING:
            numbers = struct.unpack(f"<{self._count}{SCALARS[self.kind]}", self.raw)
            return tuple(map(bool, numbers)) if self.kind == BOOL else numbers
        raw, start, texts = bytes(self.raw), 0, []
        for _ in range(self._count):
            start += 8
            end = start + _U64.unpack_from(raw, start - 8)[0]
            texts.append(raw[start:end].decode("utf-8", "replace"))
            start = end
        return tuple(texts)

    def twice(self) -> str:
        """A string that appears twice, or ""; empty ones do not count."""
        raw, start, seen = bytes(self.raw), 0, set()
        for _ in range(self._count if self.kind == STRING else 0):
            start += 8
            end = start + _U64.unpack_from(raw, start - 8)[0]
            text, start = raw[start:end], end
            if text and text in seen:
                return text.decode("utf-8", "replace")
            seen.add(text)
        return ""

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str | int | float | bool: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str | int | float | bool]: ...
    def __getitem__(self, index: int | slice) -> object:
        return self.values[index]

    def __iter__(self) -> Iterator[str | int | float | bool]:
        return iter(self.values)


Value: TypeAlias = str | int | float | bool | GgufArray


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """`shape` in GGUF order (the contiguous dimension first); `offset` counts from the start of the file."""

    name: str
    shape: tuple[int, ...]
    type: GgmlType
    offset: int
    n_bytes: int


@dataclass(frozen=True)
class GgufHeader:
    """A header whose structure is sound. `gguf_checks` checks what its numbers mean."""

    version: int
    alignment: int  # bytes, a power of two
    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]  # in the order of the file
    data_offset: int
    file_bytes: int  # of all parts
    parts: tuple[Path, ...] = ()  # the files of a split model, the first of which this header is; else empty

    @cached_property
    def by_name(self) -> Mapping[str, TensorInfo]:
        return {tensor.name: tensor for tensor in self.tensors}


Fetch: TypeAlias = Callable[[int, int], bytes]
"""`fetch(offset, n_bytes)`: that part of the file; fewer bytes only at its end."""


def read_header(path: Path) -> GgufHeader:
    """The header of the GGUF file at `path`. Reads no more than the header."""
    try:
        with open_file(path) as file:

            def fetch(offset: int, n_bytes: int) -> bytes:
                file.seek(offset)
                return file.read(n_bytes)

            return parse_header(fetch, path.stat().st_size, str(path))
    except OSError as error:
        raise ArtifactError(
            f"{path} cannot be read: {error.strerror or error}", hint="check that you may read it"
        ) from error


def parse_header(fetch: Fetch, file_bytes: int, name: str) -> GgufHeader:
    """The header of a file of `file_bytes` bytes, read by `fetch` in pieces that double; `name` is for messages."""
    cursor = _Cursor(fetch, file_bytes, name)
    version, n_tensors, n_keys = _preamble(cursor)
    metadata = _metadata(cursor, n_keys)
    alignment = _alignment(cursor, metadata)
    first = [_tensor(cursor) for _ in range(n_tensors)]
    data_offset = -(-cursor.at // alignment) * alignment
    tensors = tuple(TensorInfo(n, s, t, data_offset + o, b) for n, s, t, o, b in first)
    _check_layout(cursor, tensors, alignment)
    return GgufHeader(version, alignment, metadata, tensors, data_offset, file_bytes)


class _Cursor:
    """A place in the file, and as much of the file as was needed so far."""

    def __init__(self, fetch: Fetch, size: int, name: str) -> None:
        self._fetch, self.size, self.name = fetch, size, name
        self.data = b""
        self.at = 0

    def bad(self, what: str) -> ArtifactError:
        return ArtifactError(f"{self.name}: {what[:300]} (at byte {self.at})", hint=ODDITIES[Odd.DAMAGED].hint)

    def report(self, odd: Odd, what: str, **words: str) -> None:
        report(odd, f"{self.name}: {what[:300]} (at byte {self.at})", **words)

    def need(self, n_bytes: int) -> None:
        """Make `n_bytes` more bytes available."""
        end = self.at + n_bytes
        if end <= len(self.data):
            return
        if end > self.size:
            raise self.bad(f"needs {n_bytes} bytes here, but the file has {self.size} bytes in all")
        if end > MAX_HEADER_BYTES:
            raise self.bad(f"the header is longer than {MAX_HEADER_BYTES} bytes")
        wanted = min(self.size, max(end, FIRST_READ, 2 * len(self.data)), MAX_HEADER_BYTES)
        self.data += self._fetch(len(self.data), wanted - len(self.data))
        if len(self.data) < end:
            raise self.bad(f"the file ends after {len(self.data)} bytes, {self.size} were expected")

    def take(self, n_bytes: int) -> bytes:
        self.need(n_bytes)
        self.at += n_bytes
        return self.data[self.at - n_bytes : self.at]

    def u32(self) -> int:
        return int(_U32.unpack(self.take(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack(self.take(8))[0])

    def text(self, limit: int, what: str, odd: Odd = Odd.DAMAGED) -> str:
        """A short text in one printable line; `odd` names the oddity of a text that cannot be printed as it is."""
        length = self.u64()
        if not 0 < length <= limit:
            raise self.bad(f"{what} has {length} bytes; 1 to {limit} are allowed")
        raw = self.take(length)
        text = raw.decode("utf-8", "backslashreplace")
        if not text.isprintable() or text.encode() != raw:
            self.report(odd, f"{what} is not printable UTF-8: {raw[:40]!r}")
            text = text.encode("unicode_escape").decode()
        return text

    def skip_strings(self, count: int) -> None:
        while count:
            at, count = _pass_strings(self.data, self.at, count)
            if at > self.size:
                raise self.bad(f"a string ends at byte {at} of a file of {self.size} bytes")
            self.at = at
            self.need(8 if count else 0)


def _pass_strings(data: bytes, at: int, count: int) -> tuple[int, int]:
    """Where the next string starts, and how many are left, after those in memory. The reader's only hot loop."""
    unpack = _U64.unpack_from
    try:
        while count:
            at += 8 + unpack(data, at)[0]
            count -= 1
    except (struct.error, OverflowError):  # beyond the bytes that were read
        pass
    return at, count


def _preamble(cursor: _Cursor) -> tuple[int, int, int]:
    if not cursor.size:
        report(Odd.EMPTY, f"{cursor.name} is empty")
    magic = cursor.take(4)
    if magic != b"GGUF":
        kind = odd_head(magic)
        report(kind, f"{cursor.name} is not a GGUF file but {kind}: it starts with {magic!r}")
    version = cursor.u32()
    if version not in (2, 3):
        kind = odd_version(version)
        why = "big-endian files are not read" if kind is Odd.BIG_ENDIAN else "versions 2 and 3 are read"
        cursor.report(kind, f"GGUF version {version}: {why}")
    n_tensors, n_keys = cursor.u64(), cursor.u64()
    if n_tensors > MAX_TENSORS or n_keys > MAX_KEYS:
        raise cursor.bad(
            f"{n_tensors} tensors and {n_keys} keys are declared; at most {MAX_TENSORS} and {MAX_KEYS} are allowed"
        )
    return version, n_tensors, n_keys


def _metadata(cursor: _Cursor, n_keys: int) -> Mapping[str, Value]:
    values: dict[str, Value] = {}
    arrays: dict[str, tuple[int, int, int, int]] = {}
    elements_left = MAX_ELEMENTS
    for _ in range(n_keys):
        key = cursor.text(MAX_KEY_BYTES, "a key", Odd.KEY_TEXT)
        if key in values:
            raise cursor.bad(f"the key {key} appears twice")
        kind = cursor.u32()
        if kind == ARRAY:
            arrays[key] = _array(cursor, key, elements_left)
            elements_left -= arrays[key][1]
            values[key] = ""  # keeps the order of the file
        else:
            values[key] = _scalar(cursor, key, kind)
    view = memoryview(cursor.data)
    for key, (kind, count, start, end) in arrays.items():
        values[key] = GgufArray(kind, count, view[start:end])
    return values


def _scalar(cursor: _Cursor, key: str, kind: int) -> str | int | float | bool:
    if kind == STRING:
        length = cursor.u64()
        if length > MAX_TEXT_BYTES:
            raise cursor.bad(f"{key} is a text of {length} bytes; at most {MAX_TEXT_BYTES} are allowed")
        return cursor.take(length).decode("utf-8", "replace")
    if kind not in SCALARS:
        raise cursor.bad(f"{key} has the unknown value type {kind}")
    code = SCALARS[kind]
    value: int | float = struct.unpack("<" + code, cursor.take(struct.calcsize("<" + code)))[0]
    if kind == BOOL and value not in (0, 1):
        cursor.report(Odd.BOOLEAN, f"{key} is a boolean of value {value}")
    return bool(value) if kind == BOOL else value


def _array(cursor: _Cursor, key: str, most: int) -> tuple[int, int, int, int]:
    """Kind, count, start and end of an array's elements; they stay bytes until they are read."""
    kind, count = cursor.u32(), cursor.u64()
    if kind != STRING and kind not in SCALARS:
        what = "arrays inside arrays are not read" if kind == ARRAY else "it is unknown"
        raise cursor.bad(f"{key} is an array of value type {kind}: {what}")
    if count > most:
        raise cursor.bad(f"{key} has {count} elements; at most {most} more are allowed")
    start = cursor.at
    if kind == STRING:
        if count * 8 > cursor.size - start:
            raise cursor.bad(f"{key} has {count} strings, more than fit in a file of {cursor.size} bytes")
        cursor.skip_strings(count)
    else:
        n_bytes = count * struct.calcsize("<" + SCALARS[kind])
        cursor.need(n_bytes)
        cursor.at += n_bytes
        if kind == BOOL and cursor.data[start : cursor.at].strip(b"\0\1"):
            cursor.report(Odd.BOOLEAN, f"{key} holds a boolean that is neither 0 nor 1")
    return kind, count, start, cursor.at


def _alignment(cursor: _Cursor, metadata: Mapping[str, Value]) -> int:
    value = metadata.get("general.alignment", 32)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MAX_ALIGNMENT or value & (value - 1):
        shown = "an array" if isinstance(value, GgufArray) else repr(value)[:40]
        raise cursor.bad(f"general.alignment is {shown}; a power of two up to {MAX_ALIGNMENT} is allowed")
    return value


def _tensor(cursor: _Cursor) -> tuple[str, tuple[int, ...], GgmlType, int, int]:
    """Name, shape, type, offset in the data, bytes."""
    name = cursor.text(MAX_NAME_BYTES, "a tensor name")
    n_dims = cursor.u32()
    if not 1 <= n_dims <= 4:
        raise cursor.bad(f"tensor {name} has {n_dims} dimensions; 1 to 4 are allowed")
    shape = struct.unpack(f"<{n_dims}Q", cursor.take(8 * n_dims))
    number, offset = cursor.u32(), cursor.u64()
    if number not in GGML_TYPES:
        odd, words = odd_type(number)
        why = "" if odd is Odd.DAMAGED else f", {odd}"
        cursor.report(odd, f"tensor {name} has the unknown type {number}{why}", **words)
    kind = GGML_TYPES[number]
    n_values = 1
    for size in shape:
        n_values *= size
    if not n_values or n_values >> 63:
        raise cursor.bad(f"tensor {name} of shape {list(shape)} has {n_values} values")
    if shape[0] % kind.block:
        raise cursor.bad(f"tensor {name}: rows of {shape[0]} values are no multiple of {kind.name}'s {kind.block}")
    return name, shape, kind, offset, n_values // kind.block * kind.block_bytes


def _check_layout(cursor: _Cursor, tensors: tuple[TensorInfo, ...], alignment: int) -> None:
    """Every tensor lies inside the file, aligned, on bytes of its own, under a name of its own."""
    names = set()
    for tensor in tensors:
        if tensor.name in names:
            raise cursor.bad(f"the tensor {tensor.name} appears twice")
        names.add(tensor.name)
        if tensor.offset % alignment:
            raise cursor.bad(f"tensor {tensor.name} at byte {tensor.offset} is not aligned to {alignment} bytes")
        if tensor.offset + tensor.n_bytes > cursor.size:
            raise cursor.bad(
                f"tensor {tensor.name} has {tensor.n_bytes} bytes from byte {tensor.offset}, "
                f"but the file ends at {cursor.size}"
            )
    ordered = sorted(tensors, key=lambda tensor: tensor.offset)
    for before, after in pairwise(ordered):
        if before.offset + before.n_bytes > after.offset:
            raise cursor.bad(f"tensors {before.name} and {after.name} overlap at byte {after.offset}")

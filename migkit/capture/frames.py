"""Frames and rows of a journal as bytes.

A frame is magic (4 bytes), type (1), length of the payload (4, little endian), payload, CRC32 of type, length and
payload (4). A row's payload is a bit for each column that is there, then 8 bytes a number, then length and UTF-8 of
each text. After damage the reader goes on at the next magic.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from migkit.schema import COLUMNS

MAGIC: Final = b"\xabMJ1"
OVERHEAD: Final = 13
_HEAD: Final = struct.Struct("<4scI")
_CRC: Final = struct.Struct("<I")
_PACK: Final = {"int64": "q", "uint64": "Q", "int32": "q", "bool": "q"}

Row = dict[str, Any]
Layout = Sequence[tuple[str, str]]

LAYOUT: Final[Layout] = tuple((column.name, column.dtype) for column in COLUMNS)


def frame(kind: bytes, payload: bytes) -> bytes:
    """One frame, ready to be written."""
    head = _HEAD.pack(MAGIC, kind, len(payload))
    return head + payload + _CRC.pack(zlib.crc32(payload, zlib.crc32(head[4:])))


def pack_row(row: Mapping[str, Any], layout: Layout = LAYOUT) -> bytes:
    """A row's payload. Raises struct.error for a number that does not fit its column."""
    present = 0
    codes, numbers, texts = ["<"], [], []
    for place, (name, dtype) in enumerate(layout):
        value = row.get(name)
        if value is None:
            continue
        present |= 1 << place
        if dtype == "string":
            text = value.encode(errors="replace")
            texts += [_CRC.pack(len(text)), text]
        else:
            codes.append(_PACK[dtype])
            numbers.append(value)
    bits = present.to_bytes((len(layout) + 7) // 8, "little")
    return bits + struct.pack("".join(codes), *numbers) + b"".join(texts)


def unpack_row(payload: bytes, layout: Layout = LAYOUT) -> Row:
    """The row of a payload. Raises ValueError when the payload is not of this layout."""
    place = (len(layout) + 7) // 8
    present = int.from_bytes(payload[:place], "little")
    columns = [column for index, column in enumerate(layout) if present >> index & 1]
    numeric = [(name, dtype) for name, dtype in columns if dtype != "string"]
    numbers = struct.Struct("<" + "".join(_PACK[dtype] for _, dtype in numeric))
    row: Row = {}
    try:
        for (name, dtype), value in zip(numeric, numbers.unpack_from(payload, place), strict=True):
            row[name] = bool(value) if dtype == "bool" else value
        place += numbers.size
        for name, _ in (column for column in columns if column[1] == "string"):
            (length,) = _CRC.unpack_from(payload, place)
            row[name] = payload[place + 4 : place + 4 + length].decode()
            place += 4 + length
    except struct.error as error:
        raise ValueError(str(error)) from None
    if place != len(payload):
        raise ValueError("the row is longer or shorter than its columns")
    return row


def frames(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = data.find(MAGIC)
    while place >= 0:
        end = _frame_end(data, place)
        if end is not None:
            yield data[place + 4 : place + 5], data[place + _HEAD.size : end - _CRC.size]
        place = data.find(MAGIC, place + 1 if end is None else end)


def _frame_end(data: bytes, place: int) -> int | None:
    """Where the frame at `place` ends; None when it is cut or its checksum is wrong."""
    if place + _HEAD.size > len(data):
        return None
    _, _, length = _HEAD.unpack_from(data, place)
    end: int = place + _HEAD.size + length + _CRC.size
    if end > len(data):
        return None
    (stored,) = _CRC.unpack_from(data, end - _CRC.size)
    return end if zlib.crc32(memoryview(data)[place + 4 : end - _CRC.size]) == stored else None


def tamed(row: Mapping[str, Any]) -> Row:
    """The row with values that do not fit their columns moved to `extra`, so that nothing libvirt says is lost."""
    fits, odd = dict(row), {}
    for name in row:
        try:
            pack_row({name: row[name]})
        except (struct.error, TypeError, AttributeError):
            odd[name] = fits.pop(name)
    known = json.loads(fits.get("extra") or "{}")
    return fits | {"extra": json.dumps(known | odd, separators=(",", ":"), sort_keys=True, default=str)}

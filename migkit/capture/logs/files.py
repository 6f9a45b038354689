"""Files, folders, compressed files, archives and standard input as lines, a block at a time."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import sys
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from migkit.capture.logs.base import Line
from migkit.errors import MigkitError
from migkit.units import MIB

STDIN = "-"
BLOCK_BYTES = 1 * MIB
# No line of a log is as long; documents of one line are read by formats that ask for every line.
_LONGEST_LINE = 4 * MIB
LONGEST_DOCUMENT = 512 * MIB
_DEEPEST = 4
_DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError, tarfile.TarError)


class Source(NamedTuple):
    """A stream of bytes to read once, in order, and where it comes from."""

    place: str
    stream: io.BufferedReader[Any]


def sources(places: Sequence[str | os.PathLike[str]], skipped: Counter[str]) -> Iterator[Source]:
    """The plain files behind `places`: files, folders, compressed files, archives inside each other, `-` for standard
    input. One is to be read before the next is asked for.

    Raises MigkitError for a place that does not exist or cannot be read; damaged archives end early, and are counted.
    """
    for place in places:
        if str(place) == STDIN:
            yield from _unpacked("standard input", sys.stdin.buffer, skipped, 0)
        for path in _files(Path(place)) if str(place) != STDIN else ():
            try:
                stream = open(path, "rb")  # noqa: SIM115 (closed below, after whoever reads it)
            except OSError as error:
                raise MigkitError(f"{path}: cannot be read ({error.strerror})") from None
            with stream:
                yield from _unpacked(str(path), stream, skipped, 0)


def _files(place: Path) -> list[Path]:
    if not place.exists():
        raise MigkitError(f"{place}: no such file or folder")
    if not place.is_dir():
        return [place]
    inside = sorted((path for path in place.rglob("*") if path.is_file()), key=_oldest_first)
    if not inside:
        raise MigkitError(f"{place}: the folder is empty")
    return inside


def _oldest_first(path: Path) -> tuple[str, bool, int, str]:
    """Rotated logs before the one that is written now: previous before current, x.log.2 before x.log.1 before x.log,
    x.log.DATE before x.log."""
    rotated = re.fullmatch(r"(.*\.log)\.(\d{1,4})(?:\.\w+)?", path.name)
    if rotated:
        return (str(path.parent / rotated[1]), False, -int(rotated[2]), path.name)
    stem = re.sub(r"previous|current", "", path.name)
    dated = re.fullmatch(r"(.*\.log)[.-]\d{8}.*", stem)
    newest = dated is None and "previous" not in path.name
    return (str(path.parent / (dated[1] if dated else stem)), newest, 0, path.name)


def _unpacked(place: str, stream: IO[bytes], skipped: Counter[str], depth: int) -> Iterator[Source]:
    raw = _Rewound(stream)
    rewound, head = io.BufferedReader(raw, BLOCK_BYTES), raw.head  # type: ignore[type-var]
    unpack = next((tool for magic, tool in _TOOLS.items() if head.startswith(magic)), None)
    if head[257:262] == b"ustar" and depth < _DEEPEST:
        yield from _members(place, rewound, skipped, depth)
    elif unpack is not None and depth < _DEEPEST:
        yield from _unpacked(place, unpack(rewound), skipped, depth + 1)
    else:
        yield Source(place, rewound)


_TOOLS: dict[bytes, Callable[[IO[bytes]], IO[bytes]]] = {
    b"\x1f\x8b": lambda stream: cast(IO[bytes], gzip.GzipFile(fileobj=stream)),
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"BZh": bz2.BZ2File,
}


def _members(place: str, stream: IO[bytes], skipped: Counter[str], depth: int) -> Iterator[Source]:
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                inner = archive.extractfile(member) if member.isfile() else None
                if inner is not None:
                    yield from _unpacked(f"{place}:{member.name}", inner, skipped, depth + 1)
    except _DAMAGED as error:
        skipped[f"the rest of {place}, which is damaged ({_words(error)})"] += 1


class _Rewound(io.RawIOBase):
    """A stream whose beginning can be looked at whole: a pipe gives its first bytes in small pieces. It reads no more
    at a time than comes, so that what was good before the damage is not lost with it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._read = getattr(stream, "read1", stream.read)
        self.head, self._rest = b"", b""
        try:
            while len(self.head) < 512 and (piece := self._read(512)):
                self.head += piece
        except _DAMAGED:
            pass
        self._rest = self.head

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        piece = self._rest[: len(buffer)] or self._read(len(buffer))
        self._rest = self._rest[len(piece) :]
        buffer[: len(piece)] = piece
        return len(piece)


def blocks(source: Source, skipped: Counter[str]) -> Iterator[bytes]:
    """What a source holds, a block at a time; what is damaged ends early, and is counted."""
    ended = False
    while not ended:
        pieces, size = [], 0
        try:
            while size < BLOCK_BYTES and (piece := source.stream.read1(BLOCK_BYTES)):
                pieces.append(piece)
                size += len(piece)
            ended = size < BLOCK_BYTES
        except _DAMAGED as error:
            skipped[f"the rest of {source.place}, which is damaged ({_words(error)})"] += 1
            ended = True
        if pieces:
            yield b"".join(pieces)


def _words(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class Split:
    """The lines of one file that hold one of the needles, out of its blocks; `number` counts all of them."""

    def __init__(self, place: str, needles: Sequence[bytes], skipped: Counter[str]) -> None:
        self.place, self._needles, self._skipped = place, needles, skipped
        self.number = 0

    def lines(self, parts: Iterator[bytes]) -> Iterator[Line]:
        """The chosen lines, in order; the others are counted as foreign ones."""
        pending: list[bytes] = []
        for block in parts:
            cut = block.rfind(b"\n") + 1
            if cut:
                yield from self._chosen(b"".join([*pending, block[:cut]]))
                pending = [block[cut:]]
            else:
                pending.append(block)
                self._check_length(pending)
        rest = b"".join(pending)
        if rest:
            yield from self._chosen(rest + b"\n")

    def _check_length(self, pending: list[bytes]) -> None:
        length = sum(map(len, pending))
        if not self._needles and length > LONGEST_DOCUMENT:
            raise MigkitError(f"{self.place}: one line is longer than 512 MiB; cut the file up")
        if self._needles and length > _LONGEST_LINE:
            self._skipped["the beginning of a line of several MiB"] += 1
            pending[:] = pending[-1:]

    def _chosen(self, piece: bytes) -> Iterator[Line]:
        if not self._needles:
            for text in piece.split(b"\n")[:-1]:
                self.number += 1
                yield Line(text.rstrip(b"\r"), self.place, self.number)
            return
        found = _found(piece, self._needles)
        counted = 0
        for start in sorted(found):
            self.number += piece.count(b"\n", counted, start)
            counted = start
            yield Line(piece[start : found[start]].rstrip(b"\r"), self.place, self.number + 1)
        self.number += piece.count(b"\n", counted)
        if foreign := piece.count(b"\n") - len(found):
            self._skipped["foreign line"] += foreign


def _found(piece: bytes, needles: Sequence[bytes]) -> dict[int, int]:
    """Start -> end of every line that holds a needle."""
    found: dict[int, int] = {}
    for needle in needles:
        at = piece.find(needle)
        while at >= 0:
            end = piece.find(b"\n", at)
            found[piece.rfind(b"\n", 0, at) + 1] = end
            at = piece.find(needle, end)
    return found

"""Files, folders, compressed files, archives and standard input as lines, a block at a time."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import os
import re
import stat
import sys
import tarfile
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
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
# Of what is in no known format so far and can be read once only; in memory, and in a temporary file.
_HELD_BYTES, MOST_KEPT = 16 * MIB, 1024 * MIB
_DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError, tarfile.TarError)
# Headers of an archive that make no sense end in whatever the standard library meets first.
_SENSELESS = (*_DAMAGED, ValueError, LookupError, OverflowError, RecursionError)


class Source(NamedTuple):
    """A stream of bytes to read once, in order, and where it comes from; `origin`, the open file that holds nothing
    but it, from which it can be read again."""

    place: str
    stream: io.BufferedReader[Any]
    origin: IO[bytes] | None = None


@dataclass(frozen=True, slots=True)
class Losses:
    """What could not be read, in a line each: files that could not be opened, and those that broke off."""

    unreadable: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    def cut(self, place: str, error: Exception) -> None:
        """Takes that a place can be read no further, once, however often somebody tries."""
        line = f"{place}: the rest is damaged ({_words(error)}) and was left out"
        if line not in self.damaged:
            self.damaged.append(line)


def sources(places: Sequence[str | os.PathLike[str]], losses: Losses) -> Iterator[Source]:
    """The plain files behind `places`: files, folders, compressed files, archives inside each other, `-` for standard
    input. One is to be read before the next is asked for.

    Raises MigkitError for a place that does not exist, or a folder without files; what cannot be read is passed over.
    """
    for place in places:
        if str(place) == STDIN:
            yield from _unpacked("standard input", sys.stdin.buffer, losses, 0)
        for path in _files(Path(place), losses) if str(place) != STDIN else ():
            try:
                stream = open(path, "rb")  # noqa: SIM115 (closed below, after whoever reads it)
            except OSError as error:
                losses.unreadable.append(_unreadable(path, error))
                continue
            with stream:
                regular = stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
                for source in _unpacked(str(path), stream, losses, 0):
                    yield source._replace(origin=stream) if regular and source.place == str(path) else source


def readable_twice(place: str | os.PathLike[str]) -> bool:
    """Whether it is a file or a folder: what came out of a pipe is gone."""
    try:
        mode = os.stat(place).st_mode
    except (OSError, ValueError):
        return str(place) != STDIN
    return str(place) != STDIN and (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _files(place: Path, losses: Losses) -> list[Path]:
    try:
        is_folder = stat.S_ISDIR(os.stat(place).st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise MigkitError(f"{place}: no such file or folder") from None
    except OSError as error:
        losses.unreadable.append(_unreadable(place, error))
        return []
    if not is_folder:
        return [place]
    before = len(losses.unreadable)
    inside = sorted(_inside(place, losses), key=_oldest_first)
    if not inside and len(losses.unreadable) == before:
        raise MigkitError(f"{place}: the folder is empty")
    return inside


def _inside(folder: Path, losses: Losses) -> Iterator[Path]:
    """The regular files of a folder and of those below it, each folder once, wherever links lead."""
    seen: set[tuple[int, int]] = set()

    def failed(error: OSError) -> None:
        losses.unreadable.append(_unreadable(Path(error.filename), error))

    for at, folders, names in os.walk(folder, onerror=failed, followlinks=True):
        here = _told(Path(at), losses)
        if here is None or (here.st_dev, here.st_ino) in seen:
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        for path in (Path(at, name) for name in sorted(names)):
            told = _told(path, losses)
            if told is not None and stat.S_ISREG(told.st_mode):
                yield path


def _told(path: Path, losses: Losses) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError as error:
        losses.unreadable.append(_unreadable(path, error))
        return None


def _unreadable(path: Path, error: OSError) -> str:
    return f"{path}: cannot be read ({error.strerror or _words(error)})"


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


def _unpacked(place: str, stream: IO[bytes], losses: Losses, depth: int) -> Iterator[Source]:
    raw = _Rewound(stream)
    rewound, head = io.BufferedReader(raw, BLOCK_BYTES), raw.head  # type: ignore[type-var]
    unpack = next((tool for magic, tool in _TOOLS.items() if head.startswith(magic)), None)
    encoding = next((name for mark, name in _MARKS.items() if head.startswith(mark)), None)
    if head[257:262] == b"ustar" and depth < _DEEPEST:
        yield from _members(place, rewound, losses, depth)
    elif unpack is not None and depth < _DEEPEST:
        yield from _unpacked(place, unpack(rewound), losses, depth + 1)
    elif encoding is not None:
        yield Source(place, io.BufferedReader(_Recoded(rewound, encoding), BLOCK_BYTES))
    else:
        yield Source(place, rewound)


# The marks of an encoding at a text's beginning, the longer ones first. PowerShell's `>` writes UTF-16.
_MARKS = {
    b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32", b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16",
}  # fmt: skip
_TOOLS: dict[bytes, Callable[[IO[bytes]], IO[bytes]]] = {
    b"\x1f\x8b": lambda stream: cast(IO[bytes], gzip.GzipFile(fileobj=stream)),
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"BZh": bz2.BZ2File,
}


def _members(place: str, stream: IO[bytes], losses: Losses, depth: int) -> Iterator[Source]:
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                inner = archive.extractfile(member) if member.isfile() else None
                if inner is not None:
                    yield from _unpacked(f"{place}:{member.name}", inner, losses, depth + 1)
    except _SENSELESS as error:
        losses.cut(place, error)


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


class _Recoded(io.RawIOBase):
    """A text in another encoding as UTF-8, without the mark at its beginning."""

    def __init__(self, stream: io.BufferedReader[Any], encoding: str) -> None:
        self._stream, self._rest = stream, b""
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        ended = False
        while not self._rest and not ended:
            piece = self._stream.read1(BLOCK_BYTES)
            ended = not piece
            self._rest = self._decoder.decode(piece, ended).encode()
        given, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(given)] = given
        return len(given)


def blocks(source: Source, losses: Losses) -> Iterator[bytes]:
    """What a source holds, a block at a time; what is damaged ends early, and is told."""
    ended = False
    while not ended:
        pieces, size = [], 0
        try:
            while size < BLOCK_BYTES and (piece := source.stream.read1(BLOCK_BYTES)):
                pieces.append(piece)
                size += len(piece)
            ended = size < BLOCK_BYTES
        except _DAMAGED as error:
            losses.cut(source.place, error)
            ended = True
        if pieces:
            yield b"".join(pieces)


class Lookahead:
    """A source's blocks, looked at until it is known what they are, then read from the first one on."""

    def __init__(self, source: Source, losses: Losses) -> None:
        self._source, self._losses = source, losses
        self._parts = blocks(source, losses)
        self._kept = tempfile.SpooledTemporaryFile(_HELD_BYTES)  # noqa: SIM115 (closed with this)
        self._dropped = 0

    def __enter__(self) -> Lookahead:
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.close()

    def ahead(self) -> Iterator[bytes]:
        """The next blocks, to look at."""
        for block in self._parts:
            if self._source.origin is None:
                self._keep(block)
            yield block

    def _keep(self, block: bytes) -> None:
        if self._kept.tell() + len(block) > MOST_KEPT:
            self._dropped += self._kept.tell()
            self._kept.seek(0)
            self._kept.truncate()
        try:
            self._kept.write(block)
        except OSError as error:
            raise MigkitError(f"{self._source.place}: cannot be kept in a temporary file ({error.strerror}); unpack "
                              "it first, or name its format") from None  # fmt: skip

    def blocks(self) -> Iterator[bytes]:
        """All blocks, those that were looked at first."""
        source = self._source
        if source.origin is not None:
            source.origin.seek(0)
            # Of a compressed file that was one before.
            for again in _unpacked(source.place, source.origin, self._losses, 0):
                yield from blocks(again, self._losses)
            return
        if self._dropped:
            self._losses.damaged.append(f"{source.place}: its first {self._dropped // MIB} MiB, in no known format, "
                                        "were left out; name its format")  # fmt: skip
        self._kept.seek(0)
        while block := self._kept.read(BLOCK_BYTES):
            yield block
        yield from self._parts


def _words(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class Split:
    """The lines of one file that hold one of the needles, out of its blocks; `number` counts all of them."""

    def __init__(
        self, place: str, needles: Sequence[bytes], skipped: Counter[str], losses: Losses | None = None
    ) -> None:
        self.place, self._needles, self._skipped = place, needles, skipped
        self._losses = losses if losses is not None else Losses()
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
                if self._too_long(pending):
                    return
        if any(pending):
            pending.append(b"\n")
            rest = [b"".join(pending)]
            # A document of one line is large enough to be had once.
            pending.clear()
            yield from self._chosen(rest.pop())

    def _too_long(self, pending: list[bytes]) -> bool:
        """Whether a line is too long for its file to be read on. Where lines are chosen, its beginning is dropped."""
        length = sum(map(len, pending))
        if not self._needles and length > LONGEST_DOCUMENT:
            self._losses.damaged.append(f"{self.place}: a line is longer than 512 MiB: it and all behind it were left "
                                        "out; cut the file up")  # fmt: skip
            return True
        if self._needles and length > _LONGEST_LINE:
            self._skipped["the beginning of a line of several MiB"] += 1
            pending[:] = pending[-1:]
        return False

    def _chosen(self, piece: bytes) -> Iterator[Line]:
        if not self._needles:
            texts = piece.split(b"\n")
            del piece
            for text in texts[:-1]:
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

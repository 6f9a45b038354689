"""The crash-safe file of a recording that is under way, OUT.journal beside the output, and the way from it to a trace.

Frames: H header (JSON: the columns that the rows are packed by; written twice), M metadata so far, R row, E final
metadata. One write a frame, so a killed recorder leaves whole frames; synced to the disk once a second, aside.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from migkit.capture.frames import LAYOUT, OVERHEAD, Layout, Row, frame, frames, pack_row, tamed, unpack_row
from migkit.capture.outcome import judge
from migkit.errors import MigkitError, UsageError
from migkit.meta import End, TraceMeta
from migkit.schema import SCHEMA_VERSION

SUFFIX: Final = ".journal"
SYNC_S: Final = 1.0


class Journal:
    """A journal being written. A recorder holds its lock as long as it lives, so nobody recovers it meanwhile.

    Raises MigkitError, naming the file, when it cannot be made or written or when an earlier recording is in it.
    """

    def __init__(self, path: str | os.PathLike[str], meta: TraceMeta) -> None:
        self.path = Path(path)
        self.rows = 0
        self._fd = _create(self.path)
        self._failure: OSError | None = None
        self._dirty = False
        self._closing = threading.Event()
        self._syncer = threading.Thread(target=self._sync_regularly, name="migkit-journal", daemon=True)
        header = json.dumps({"schema_version": SCHEMA_VERSION, "columns": LAYOUT}, separators=(",", ":")).encode()
        try:
            for _ in range(2):
                self._write(frame(b"H", header))
            self.note(meta)
        except MigkitError:
            os.close(self._fd)
            self.path.unlink(missing_ok=True)
            raise
        self._syncer.start()

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row; what does not fit its column goes to `extra`."""
        try:
            payload = pack_row(row)
        except (struct.error, TypeError, AttributeError):
            payload = pack_row(tamed(row))
        self._write(frame(b"R", payload))
        self.rows += 1

    def note(self, meta: TraceMeta) -> None:
        """Adds what is known by now; the last word counts."""
        self._write(frame(b"M", meta.to_json().encode()))

    def finish(self, meta: TraceMeta) -> None:
        """Adds the final metadata and brings everything to the disk."""
        self._write(frame(b"E", meta.to_json().encode()))
        self._sync()
        self._check()

    def close(self, *, remove: bool = False) -> None:
        """Ends the writing; `remove` once the rows are safe elsewhere."""
        self._closing.set()
        if self._syncer.is_alive():
            self._syncer.join()
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self._fd)

    def _write(self, data: bytes) -> None:
        self._check()
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            self._failure = error
            self._check()
        self._dirty = True

    def _check(self) -> None:
        if self._failure is not None:
            raise MigkitError(f"{self.path}: cannot be written ({self._failure.strerror})")

    def _sync_regularly(self) -> None:
        while not self._closing.wait(SYNC_S):
            self._sync()

    def _sync(self) -> None:
        if not self._dirty:
            return
        self._dirty = False
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            self._failure = self._failure or error


def _create(path: Path) -> int:
    """Opens a new journal and locks it. One that holds nothing yet is replaced, one with rows never."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise MigkitError(f"{path}: cannot be written ({error.strerror})") from None
    try:
        _lock(fd, path)
        if os.fstat(fd).st_size and not _is_blank(path):
            raise MigkitError(f"{path}: holds a recording that was cut short; first run: migkit recover {path}")
        os.ftruncate(fd, 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise MigkitError(f"{path}: is being written by another migkit; wait for its end or stop it") from None


def _is_blank(path: Path) -> bool:
    contents = read(path)
    return not contents.rows and contents.skipped_bytes == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a journal holds. `finished`: the recorder wrote the end itself; `skipped_bytes` could not be read."""

    rows: list[Row]
    meta: TraceMeta | None
    finished: bool
    skipped_bytes: int


def read(path: str | os.PathLike[str]) -> Contents:
    """Every intact frame of a journal. Raises MigkitError when it is none, or when its header is destroyed."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise MigkitError(f"{path}: no such file") from None
    except OSError as error:
        raise MigkitError(f"{path}: cannot be read ({error.strerror})") from None
    rows: list[Row] = []
    layout: Layout | None = None
    meta: TraceMeta | None = None
    finished, kept = False, 0
    for kind, payload in frames(data):
        if kind == b"H":
            layout = layout or _layout(path, payload)
        elif kind == b"R" and layout is not None:
            rows.append(unpack_row(payload, layout))
        elif kind in (b"M", b"E"):
            meta, finished = TraceMeta.from_json(payload), kind == b"E"
        kept += len(payload) + OVERHEAD
    if layout is None and data:
        raise MigkitError(f"{path}: not a journal of migkit, or its beginning is destroyed")
    return Contents(rows=rows, meta=meta, finished=finished, skipped_bytes=len(data) - kept)


def _layout(path: str | os.PathLike[str], payload: bytes) -> Layout:
    header = json.loads(payload)
    if header["schema_version"] > SCHEMA_VERSION:
        raise MigkitError(
            f"{path}: of schema version {header['schema_version']}, this migkit reads up to {SCHEMA_VERSION}: update it"
        )
    return [(name, dtype) for name, dtype in header["columns"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A trace that was written: where, what it knows, how much it holds. `skipped_bytes` of its journal could not be
    read."""

    path: Path
    meta: TraceMeta
    rows: int
    samples: int
    iterations: int | None
    duration_ms: int | None
    skipped_bytes: int = 0


def journal_path(output: str | os.PathLike[str]) -> Path:
    """Where the journal of a recording lies: beside its output."""
    path = Path(output)
    return path.with_name(path.name + SUFFIX)


def recover(
    path: str | os.PathLike[str], output: str | os.PathLike[str] | None = None, *, force: bool = False
) -> Recording:
    """Writes the trace of a recorder that was killed or could not write any more.

    Parameters: `path` the journal; `output` the trace (default: the journal's name without `.journal`). Every row
    whose checksum holds is kept. Without the recorder's own last word the outcome is what the rows prove, else
    `interrupted`. The journal is removed once the trace is on the disk, unless parts of it could not be read.

    Raises MigkitError when it is no journal, holds no row, is still being written, or the output exists.
    """
    source = Path(path)
    if output is None and not source.name.endswith(SUFFIX):
        raise UsageError(f"{source}: does not end in {SUFFIX}; say with -o where the trace goes")
    target = Path(output) if output is not None else source.with_name(source.name.removesuffix(SUFFIX))
    with _locked(source):
        return finalise(source, target, force=force)


def finalise(source: Path, target: Path, *, force: bool) -> Recording:
    """Writes the trace of a journal that nobody writes to, then removes the journal."""
    contents = read(source)
    if not contents.rows:
        raise MigkitError(f"{source}: holds no row, there is nothing to recover; it may be removed")
    rows = sorted(contents.rows, key=lambda row: int(row["mono_ns"]))
    meta = contents.meta or TraceMeta(origin="a journal whose metadata is destroyed")
    if not contents.finished:
        meta = dataclasses.replace(meta, end=_cut_short(rows))
    # Only now, so that a recorder never waits for it while a migration runs.
    from migkit import parquet

    try:
        written = parquet.write(target, parquet.table_from_rows(rows), meta, force=force)
    except MigkitError as error:
        raise MigkitError(f"{error}; the recording is kept: migkit recover {source}") from None
    if contents.skipped_bytes == 0:
        source.unlink()
    return Recording(
        path=written, meta=meta, rows=len(rows), samples=sum("latency_us" in row for row in rows),
        iterations=_largest(rows, "memory_iteration", "event_iteration"), duration_ms=_duration_ms(rows, meta),
        skipped_bytes=contents.skipped_bytes,
    )  # fmt: skip


def _cut_short(rows: list[dict[str, Any]]) -> End:
    end = judge(rows) or End(outcome="interrupted", evidence="the rows end while the job runs")
    return dataclasses.replace(end, evidence=f"{end.evidence}; the recorder was cut short, recovered from its journal")


def _largest(rows: list[dict[str, Any]], *names: str) -> int | None:
    return max((row[name] for row in rows for name in names if name in row), default=None)


def _duration_ms(rows: list[dict[str, Any]], meta: TraceMeta) -> int | None:
    final = (meta.end.completed or {}).get("time_elapsed")
    return _largest(rows, "time_elapsed_ms") if final is None else int(final)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise MigkitError(f"{path}: no such file") from None
    except OSError as error:
        raise MigkitError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise MigkitError(
            f"{path}: is still being recorded; stop that recorder first (Ctrl-C keeps what it has)"
        ) from None
    finally:
        os.close(fd)

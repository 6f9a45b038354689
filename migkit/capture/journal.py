"""The crash-safe file of a recording that is under way, OUT.journal beside the output, and the way from it to a trace.

Frames: H header (JSON: the columns that the rows are packed by), M metadata so far, R row, E final metadata. The
header and the metadata come again every CHECKPOINT_ROWS rows, so no part of the file is needed to read the others. One
write a frame, so a killed recorder leaves whole frames; synced to the disk once a second, aside.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from migkit.capture import journal_file
from migkit.capture.frames import LAYOUT, OVERHEAD, Layout, Row, frame, frames, pack_row, tamed, unpack_row
from migkit.capture.outcome import judge
from migkit.errors import MigkitError, UsageError
from migkit.failures import with_failure
from migkit.meta import End, TraceMeta
from migkit.schema import JOB_UNBOUNDED, SCHEMA_VERSION, SOURCES

SUFFIX: Final = ".journal"
SYNC_S: Final = 1.0
# At 100 ms between polls some five seconds, for a tenth of the journal's size.
CHECKPOINT_ROWS: Final = 50

_HEADER: Final = frame(
    b"H", json.dumps({"schema_version": SCHEMA_VERSION, "columns": LAYOUT}, separators=(",", ":")).encode()
)


class Journal:
    """A journal being written. A recorder holds its lock as long as it lives, so nobody recovers it meanwhile.

    Raises MigkitError, naming the file, when it cannot be made or written or when an earlier recording is in it.
    """

    def __init__(self, path: str | os.PathLike[str], meta: TraceMeta) -> None:
        self.path = Path(path)
        self.rows = 0
        self._meta = meta
        self.fd = _create(self.path)
        self._failure: OSError | None = None
        self._dirty = False
        self._closing = threading.Event()
        self._syncer = threading.Thread(target=self._sync_regularly, name="migkit-journal", daemon=True)
        try:
            self._write(_HEADER)
            self.note(meta)
        except MigkitError:
            journal_file.remove(self.fd, self.path)
            os.close(self.fd)
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
        if self.rows % CHECKPOINT_ROWS == 0:
            self.note(self._meta)

    def note(self, meta: TraceMeta) -> None:
        """Adds what is known by now; the last word counts."""
        self._meta = meta
        self._write(_HEADER + frame(b"M", meta.to_json().encode()))

    def finish(self, meta: TraceMeta) -> None:
        """Adds the final metadata and brings everything to the disk."""
        self._write(_HEADER + frame(b"E", meta.to_json().encode()))
        self._sync()
        self._check()

    def close(self, *, remove: bool = False) -> None:
        """Ends the writing; `remove` once the rows are safe elsewhere."""
        self._closing.set()
        if self._syncer.is_alive():
            self._syncer.join()
        if remove:
            journal_file.remove(self.fd, self.path)
        os.close(self.fd)

    def _write(self, data: bytes) -> None:
        self._check()
        try:
            while data:
                data = data[os.write(self.fd, data) :]
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
            os.fdatasync(self.fd)
        except OSError as error:
            self._failure = self._failure or error


def _create(path: Path) -> int:
    """Opens a new journal and locks it. One that holds nothing yet is replaced, one with rows never."""
    fd = journal_file.open_new(path)
    try:
        found = _parsed(journal_file.content(fd, path), path)
        if found.rows or found.skipped_bytes:
            command = advice(path, trace_path(path))
            raise MigkitError(f"{path}: holds a recording that was cut short; first run: {command}")
        os.ftruncate(fd, 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a journal holds. `finished`: the recorder wrote the end itself; `skipped_bytes` could not be read."""

    rows: list[Row]
    meta: TraceMeta | None
    finished: bool
    skipped_bytes: int


def read(path: str | os.PathLike[str]) -> Contents:
    """Every intact frame of a journal. Raises MigkitError when there is none."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise MigkitError(f"{path}: no such file") from None
    except OSError as error:
        raise MigkitError(f"{path}: cannot be read ({error.strerror})") from None
    return _parsed(data, path)


def _parsed(data: bytes, path: str | os.PathLike[str]) -> Contents:
    found = list(frames(data))
    if data and not found:
        raise MigkitError(f"{path}: not a journal of migkit, or nothing of it is intact")
    headers = [payload for kind, payload in found if kind == b"H"]
    layout = _layout(path, headers[0]) if headers else LAYOUT
    rows: list[Row] = []
    meta: TraceMeta | None = None
    finished, kept = False, 0
    for kind, payload in found:
        if kind == b"R":
            try:
                rows.append(_row(payload, layout, certain=bool(headers)))
            except ValueError:
                continue
        elif kind in (b"M", b"E"):
            meta, finished = _meta(path, payload), kind == b"E"
        kept += len(payload) + OVERHEAD
    return Contents(rows=rows, meta=meta, finished=finished, skipped_bytes=len(data) - kept)


def _meta(path: str | os.PathLike[str], payload: bytes) -> TraceMeta:
    try:
        return TraceMeta.from_json(payload)
    except MigkitError as error:
        raise MigkitError(f"{path}: {error}") from None


def _row(payload: bytes, layout: Layout, *, certain: bool) -> Row:
    """A row. Where every header is destroyed its columns are guessed to be today's, so it must look like a row."""
    row = unpack_row(payload, layout)
    if not certain and (row.get("source") not in SOURCES or "mono_ns" not in row):
        raise ValueError("packed by other columns")
    return row


def _layout(path: str | os.PathLike[str], payload: bytes) -> Layout:
    header = json.loads(payload)
    if header["schema_version"] > SCHEMA_VERSION:
        raise MigkitError(
            f"{path}: of schema version {header['schema_version']}, this migkit reads up to {SCHEMA_VERSION}: update it"
        )
    return [(name, dtype) for name, dtype in header["columns"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A trace that was written: where, what it knows, how much it holds.

    `samples` are those of the running job. `skipped_bytes` of its journal could not be read; what is left of it then
    lies at `damaged_journal`. `stopped`: Ctrl-C or SIGTERM came meanwhile.
    """

    path: Path
    meta: TraceMeta
    rows: int
    samples: int
    iterations: int | None
    duration_ms: int | None
    skipped_bytes: int = 0
    damaged_journal: Path | None = None
    stopped: bool = False


def journal_path(output: str | os.PathLike[str]) -> Path:
    """Where the journal of a recording lies: beside its output."""
    path = Path(output)
    return path.with_name(path.name + SUFFIX)


def trace_path(journal: Path) -> Path | None:
    """The output that a journal lies beside; None when its name does not tell."""
    name = journal.name.removesuffix(SUFFIX)
    return journal.with_name(name) if name not in ("", journal.name) else None


def advice(journal: Path, output: Path | None) -> str:
    """The command that makes the trace `output` of a journal."""
    beside = trace_path(journal)
    # A folder that was moved has taken the journal along: then the trace goes beside it.
    if output is None or (beside is not None and not output.parent.is_dir()):
        output = beside
    words = ["migkit", "recover", str(journal)]
    if output is not None and output != beside:
        words += ["-o", str(output)]
    if output is not None and output.exists():
        words.append("--force")
    return shlex.join(words)


def writable(output: str | os.PathLike[str], *, force: bool) -> Path:
    """The path of a trace that is to be written. Raises MigkitError where no file can be, or one is already."""
    target = Path(output)
    if target.is_dir():
        raise MigkitError(f"{target}: is a folder; name the file to write")
    if target.exists() and not target.is_file():
        raise MigkitError(f"{target}: is no ordinary file; name the file to write")
    if target.exists() and not force:
        raise MigkitError(f"{target}: exists already; choose another name or pass --force")
    return target


def recover(
    path: str | os.PathLike[str], output: str | os.PathLike[str] | None = None, *, force: bool = False
) -> Recording:
    """Writes the trace of a recorder that was killed or could not write any more.

    Parameters: `path` the journal; `output` the trace (default: the journal's name without `.journal`). Every row
    whose checksum holds is kept. Without the recorder's own last word the outcome is what the rows prove, else
    `interrupted`. The journal is removed once the trace is on the disk; if parts of it could not be read it is
    renamed to NAME.damaged instead.

    Raises MigkitError when it is no journal, holds no row, is still being written, or the output exists.
    """
    source = Path(path)
    target = Path(output) if output is not None else trace_path(source)
    if target is None:
        raise UsageError(f"{source}: does not end in {SUFFIX}; say with -o where the trace goes")
    writable(target, force=True)
    fd = journal_file.open_old(source)
    try:
        if journal_file.is_at(fd, target):
            raise UsageError(f"{target}: is the journal itself; say with -o where the trace goes")
        return finalise(fd, source, target, force=force)
    finally:
        os.close(fd)


def finalise(fd: int, source: Path, target: Path, *, force: bool) -> Recording:
    """Writes the trace of an open journal that nobody writes to, then removes the journal or sets it aside."""
    contents = _parsed(journal_file.content(fd, source), source)
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
        command = advice(journal_file.kept(fd, source), target)
        raise MigkitError(f"{error}; the recording is kept: {command}") from None
    return Recording(
        path=written, meta=meta, rows=len(rows), samples=sum(row.get("job_type") == JOB_UNBOUNDED for row in rows),
        iterations=_largest(rows, "memory_iteration", "event_iteration"), duration_ms=_duration_ms(rows, meta),
        skipped_bytes=contents.skipped_bytes,
        damaged_journal=_cleared(fd, source, written, damaged=contents.skipped_bytes > 0),
    )  # fmt: skip


def _cleared(fd: int, source: Path, written: Path, *, damaged: bool) -> Path | None:
    """Takes the journal out of the way of the next recording. Returns where it lies now, if anywhere."""
    try:
        if damaged:
            return journal_file.set_aside(fd, source)
        journal_file.remove(fd, source)
    except OSError as error:
        raise MigkitError(
            f"{written} is written, but {source} cannot be taken away ({error.strerror}): remove it"
        ) from None
    return None


def _cut_short(rows: list[dict[str, Any]]) -> End:
    end = judge(rows) or End(outcome="interrupted", evidence="the rows end while the job runs")
    evidence = f"{end.evidence}; the recorder was cut short, recovered from its journal"
    return with_failure(dataclasses.replace(end, evidence=evidence))


def _largest(rows: list[dict[str, Any]], *names: str) -> int | None:
    return max((row[name] for row in rows for name in names if name in row), default=None)


def _duration_ms(rows: list[dict[str, Any]], meta: TraceMeta) -> int | None:
    final = (meta.end.completed or {}).get("time_elapsed")
    return _largest(rows, "time_elapsed_ms") if final is None else int(final)

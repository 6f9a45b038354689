"""The file of a journal: opened, locked and read by its descriptor, so that no rename or removal loses its rows."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path
from typing import Final

from migkit.errors import MigkitError

_TRIES: Final = 20
_CHUNK: Final = 1 << 20


def open_new(path: Path) -> int:
    """Opens a journal to write it, made if it is not there, and locks it."""
    busy = "is being written by another migkit; wait for its end or stop it"
    return _open_locked(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, "written", busy)


def open_old(path: Path) -> int:
    """Opens a journal to read it, and locks it, which a living recorder does not allow."""
    busy = "is still being recorded; stop that recorder first (Ctrl-C keeps what it has)"
    return _open_locked(path, os.O_RDONLY, "read", busy)


def _open_locked(path: Path, flags: int, verb: str, busy: str) -> int:
    for _ in range(_TRIES):
        try:
            fd = os.open(path, flags | os.O_CLOEXEC, 0o644)
        except FileNotFoundError as error:
            what = f"cannot be written ({error.strerror})" if flags & os.O_CREAT else "no such file"
            raise MigkitError(f"{path}: {what}") from None
        except OSError as error:
            raise MigkitError(f"{path}: cannot be {verb} ({error.strerror})") from None
        try:
            _lock(fd, path, busy)
            if is_at(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        # Whoever held the lock removed the file between our opening and locking it: there is another now, or none.
        os.close(fd)
    raise MigkitError(f"{path}: is replaced again and again; stop whoever does that")


def _lock(fd: int, path: Path, busy: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise MigkitError(f"{path}: {busy}") from None
    except OSError as error:
        raise MigkitError(f"{path}: cannot be locked ({error.strerror})") from None


def is_at(fd: int, path: Path) -> bool:
    """Whether the open file still is what the path leads to."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:
        return False


def content(fd: int, path: Path) -> bytes:
    """All bytes of the open file, whatever has become of its name; `path` is for the error alone."""
    parts: list[bytes] = []
    place = 0
    try:
        while part := os.pread(fd, _CHUNK, place):
            parts.append(part)
            place += len(part)
    except OSError as error:
        raise MigkitError(f"{path}: cannot be read ({error.strerror})") from None
    return b"".join(parts)


def remove(fd: int, path: Path) -> None:
    """Removes the open file; another one that has taken its name meanwhile stays. May raise OSError."""
    if is_at(fd, path):
        path.unlink(missing_ok=True)


def set_aside(fd: int, path: Path) -> Path | None:
    """Renames a damaged journal, so that its name is free for the next recording; None when it is no longer there.
    May raise OSError."""
    if not is_at(fd, path):
        return None
    if ".damaged" in path.suffix:
        return path
    names = [f"{path.name}.damaged", *(f"{path.name}.damaged-{k}" for k in range(2, 1000))]
    target = next(path.with_name(name) for name in names if not path.with_name(name).exists())
    return path.rename(target)


def kept(fd: int, path: Path) -> Path:
    """Where the rows of an open journal lie: its path, its new path when it was moved, else a copy that is made of
    it because its name is gone and its rows would go with it. Raises MigkitError when no copy can be made."""
    if is_at(fd, path):
        return path
    with contextlib.suppress(OSError):
        moved = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if is_at(fd, moved):
            return moved
    for place in (path, Path(tempfile.gettempdir()) / f"{os.getpid()}-{path.name}"):
        with contextlib.suppress(OSError):
            return _copied(fd, path, place)
    raise MigkitError(f"{path}: was removed while recording and no copy of it can be made, its rows are lost")


def _copied(fd: int, path: Path, place: Path) -> Path:
    data = content(fd, path)
    with open(place, "xb") as copy:
        try:
            copy.write(data)
            copy.flush()
            os.fsync(copy.fileno())
        except OSError:
            place.unlink(missing_ok=True)
            raise
    return place

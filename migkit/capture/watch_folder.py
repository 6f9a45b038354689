"""The folder of a watcher: whose it is, what its traces are called, what was left in it, and what has to go."""

from __future__ import annotations

import calendar
import fcntl
import os
import re
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from migkit.capture.journal import SUFFIX, journal_path
from migkit.errors import MigkitError
from migkit.units import NS_PER_S

LOCK: Final = ".migkit-watch.lock"
_TRACE: Final = ".parquet"
_STAMP: Final = "%Y%m%dT%H%M%SZ"
_NAME: Final = re.compile(r".+-(\d{8}T\d{6}Z)(?:-\d+)?\.parquet")
_LONGEST: Final = 160  # bytes of a domain's name that fit into a file's name together with all that is put around it


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """How much is kept: `total_bytes` of traces and journals, traces up to `age_s` old; None for no limit."""

    total_bytes: int | None = None
    age_s: float | None = None


class Folder:
    """A folder that is this watcher's until `close`.

    Raises MigkitError when it cannot be made, or another watcher has it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise MigkitError(f"{self.path}: traces cannot be written there ({error.strerror})") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise MigkitError(
                f"{self.path}: another migkit watch writes there; stop it, or choose another folder"
            ) from None

    def close(self) -> None:
        """Lets others have it. The lock's file stays: whoever waits for it must find the same."""
        os.close(self._fd)

    def free(self, domain: str, wall_ns: int) -> Path:
        """A trace's path that is not taken: DOMAIN-YYYYMMDDThhmmssZ.parquet, with a number if need be."""
        moment = time.strftime(_STAMP, time.gmtime(wall_ns // NS_PER_S))
        stem, number = f"{_safe(domain)}-{moment}", 1
        path = self.path / f"{stem}{_TRACE}"
        while path.exists() or journal_path(path).exists():
            number += 1
            path = self.path / f"{stem}-{number}{_TRACE}"
        return path

    def journals(self) -> list[Path]:
        """The journals of such traces, the oldest first."""
        return self._files(SUFFIX)

    def sweep(self) -> None:
        """Removes what a killed process had begun to write of a trace; its journal has all of it."""
        for path in self._entries():
            name = path.name.removeprefix(".").rpartition(f"{_TRACE}.")[0] + _TRACE
            if path.name.startswith(".") and path.suffix == ".part" and _NAME.fullmatch(name):
                _remove(path)

    def rotate(self, keep: Keep, now_s: float) -> list[Path]:
        """Removes the oldest traces, those that are too old or for which there is no room, and returns them: ordinary
        files called as `free` calls them, nothing else. Where room is short the newest still stays."""
        traces = self._files(_TRACE)
        sizes = {path: _size(path) for path in traces}
        total = sum(sizes.values()) + sum(_size(path) for path in self.journals())
        gone = []
        for path in traces:
            old = keep.age_s is not None and now_s - (_begun_s(path) or now_s) > keep.age_s
            large = keep.total_bytes is not None and total > keep.total_bytes and path != traces[-1]
            if old or large:
                _remove(path)
                total -= sizes[path]
                gone.append(path)
        return gone

    def _entries(self) -> list[Path]:
        try:
            return list(self.path.iterdir())
        except OSError as error:
            raise MigkitError(f"{self.path}: cannot be read any more ({error.strerror})") from None

    def _files(self, suffix: str) -> list[Path]:
        """Ordinary files whose names, up to `suffix` of a journal, are those of traces; the oldest first."""
        found = [
            (begun_s, path.name, path) for path in self._entries()
            if path.name.endswith(suffix) and (begun_s := _begun_s(path)) is not None and _is_file(path)
        ]  # fmt: skip
        return [path for _, _, path in sorted(found)]


def _safe(domain: str) -> str:
    """A domain's name as the beginning of a file's: no separator, nothing hidden, not too long."""
    text = re.sub(r"[\x00-\x1f/\x7f]", "_", domain)
    text = "_" + text[1:] if text.startswith((".", "-")) else text
    return text.encode(errors="replace")[:_LONGEST].decode(errors="ignore") or "_"


def _begun_s(path: Path) -> float | None:
    """The moment in a trace's or a journal's name, in s since 1970; None for any other name."""
    match = _NAME.fullmatch(path.name.removesuffix(SUFFIX))
    if match is None:
        return None
    try:
        return float(calendar.timegm(time.strptime(match[1], _STAMP)))
    except ValueError:
        return None


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise MigkitError(f"{path}: cannot be removed ({error.strerror})") from None

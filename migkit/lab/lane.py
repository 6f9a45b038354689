"""The making of a campaign: as many migrations at a time as there are lanes, each lane with a lab of its own.

A migration is made by a process of its own, the `migkit lab record` that a user runs. So the end of a campaign, in
whatever way it ends, is the end of at most a few processes, which take their guests with them.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from migkit.errors import MigkitError
from migkit.lab import hosts
from migkit.lab.campaign import Entry, missing

_STOP_TIMEOUT_S = 90.0
_MAKING = ".making-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of an entry: a line to tell it by, and whether it failed."""

    entry: Entry
    line: str
    failed: bool = False


class Runner(Protocol):
    """Makes one migration after the other."""

    def make(self, entry: Entry) -> str:
        """Makes the entry's traces and returns a line on them. Raises MigkitError when it fails."""

    def stop(self) -> None:
        """Breaks off what it is making, from another thread, and makes nothing more."""


def make(entries: Sequence[Entry], runners: Sequence[Runner]) -> Generator[Result, None, None]:
    """Makes the entries, as many at a time as there are runners, and yields each result as it comes.

    An entry that fails does not end the others. When the caller leaves the loop, what runs is broken off.
    """
    todo, done = queue.SimpleQueue[Entry](), queue.SimpleQueue[Result | BaseException]()
    for entry in entries:
        todo.put(entry)
    threads = [threading.Thread(target=_work, args=(runner, todo, done), daemon=True) for runner in runners]
    for thread in threads:
        thread.start()
    try:
        for _ in entries:
            result = done.get()
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        with contextlib.suppress(queue.Empty):
            while True:
                todo.get_nowait()
        for runner in runners:
            runner.stop()
        for thread in threads:
            thread.join()


def _work(runner: Runner, todo: queue.SimpleQueue[Entry], done: queue.SimpleQueue[Result | BaseException]) -> None:
    while True:
        try:
            entry = todo.get_nowait()
        except queue.Empty:
            return
        try:
            done.put(Result(entry=entry, line=runner.make(entry)))
        except MigkitError as error:
            done.put(Result(entry=entry, line=str(error), failed=True))
        except BaseException as error:
            done.put(error)
            return


class Lane:
    """A runner with the lab in `folder`. Traces appear in `output` whole or not at all."""

    def __init__(self, folder: Path, output: Path, *, campaign: str, scenarios: Path | None = None) -> None:
        self._folder, self._output, self._campaign, self._scenarios = folder, output, campaign, scenarios
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False
        self._lock = threading.Lock()

    def make(self, entry: Entry) -> str:
        """Makes the entry's traces; the line is that of `migkit lab record`."""
        with tempfile.TemporaryDirectory(prefix=f"{_MAKING}{os.getpid()}-", dir=self._output) as temporary:
            said = self._run(self._words(entry, Path(temporary)))
            for path in sorted(Path(temporary).glob("*.parquet")):
                self._keep(path, entry.repeat)
        if missing([entry], self._output):
            raise MigkitError(f"lab: {entry.name} left no sound trace, its guest came up corrupted each time")
        made = [line.partition(" -> ")[0].partition(": ") for line in said.splitlines() if " -> " in line]
        return "; ".join(f"{_numbered(name, entry.repeat)}: {rest}" for name, _, rest in made)

    def stop(self) -> None:
        """Ends the recording politely, so that it ends its guest, then not."""
        with self._lock:
            self._stopped, process = True, self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)  # as Ctrl-C there, and never ignored
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_TIMEOUT_S)
        if process.poll() is None:
            process.kill()

    def close(self) -> None:
        """Takes the lab down."""
        hosts.down(self._folder)

    def _words(self, entry: Entry, output: Path) -> list[str]:
        words = [sys.executable, "-m", "migkit", "lab", "record", entry.scenario.name, "-o", str(output)]
        words += ["--dir", str(self._folder), "--keep", "--interval", f"{entry.interval_ms:g}"]
        words += ["--seed", str(entry.seed), "--note", f"campaign={self._campaign}", "--note", f"repeat={entry.repeat}"]
        return words + (["--scenarios", str(self._scenarios)] if self._scenarios else [])

    def _run(self, words: list[str]) -> str:
        with self._lock:
            if self._stopped:
                raise MigkitError("the campaign was stopped")
            # A session of its own: the terminal's Ctrl-C reaches the campaign alone, which then ends this.
            process = self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                start_new_session=True,
            )  # fmt: skip
        said, complained = process.communicate()
        if process.returncode:
            lines = [line for line in complained.splitlines() if line.strip()]
            raise MigkitError(lines[-1].removeprefix("migkit: ") if lines else f"exit code {process.returncode}")
        return said

    def _keep(self, made: Path, repeat: int) -> None:
        """Moves a trace to where it belongs."""
        os.replace(made, self._output / f"{_numbered(made.stem, repeat)}.parquet")


def clear(output: Path) -> None:
    """Removes what campaigns that were killed had begun to make in `output`."""
    for begun in output.glob(f"{_MAKING}*"):
        pid = begun.name.removeprefix(_MAKING).partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(begun, ignore_errors=True)


def _numbered(name: str, repeat: int) -> str:
    """What a recording calls SCENARIO or SCENARIO-corrupted, with the number of the repeat."""
    return name if repeat == 1 else f"{name}-{repeat}"

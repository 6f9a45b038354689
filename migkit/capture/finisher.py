"""Makes traces of whole journals, one after the other, in a process of its own.

Reading a long journal back and writing it as Parquet takes a second of processor time and all its rows in memory.
Here neither is taken from the recordings that still run: the process is nicer than theirs, and ends when it has had
nothing to do for a while, with all its memory.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final

from migkit.capture.journal import Annotate, Recording, read, recover
from migkit.errors import MigkitError, UsageError

IDLE_S: Final = 5.0
NICER: Final = 10

Done = Callable[[Path, Recording | None, str], None]


class Finisher:
    """Takes journals until `close`.

    Parameters: `done` is called, on a thread of the finisher's own, with each journal and its recording, or None and
    what is wrong, or None and nothing where the journal held nothing; `annotate` (importable, and its arguments plain)
    as in `journal.recover`.
    """

    def __init__(self, done: Done, annotate: Annotate | None = None) -> None:
        self._done, self._annotate = done, _sendable(annotate)
        self._todo: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="migkit-finisher", daemon=True)
        self._thread.start()

    def put(self, journal: Path) -> None:
        """The journal of a recording that has ended."""
        self._todo.put(journal)

    def close(self) -> None:
        """Returns once all is done."""
        self._todo.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                journal = self._todo.get(timeout=IDLE_S)
            except queue.Empty:
                self._end()
                continue
            if journal is None:
                self._end()
                return
            recording, wrong = self._finished(journal)
            self._done(journal, recording, wrong)

    def _finished(self, journal: Path) -> tuple[Recording | None, str]:
        try:
            process = self._process = self._process or _started()
            assert process.stdin is not None
            assert process.stdout is not None
            _send(process.stdin, (journal, self._annotate))
            answer: tuple[Recording | None, str] = pickle.load(process.stdout)
            return answer
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            self._end()
            return None, f"{journal}: no trace could be made of it ({type(error).__name__}: {error}), it stays"

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        process.wait()


def _sendable(annotate: Annotate | None) -> bytes:
    """For another process. Raises UsageError for what that could not make again."""
    try:
        data = pickle.dumps(annotate)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UsageError(f"annotate is called in another process, and cannot go there ({error})") from None
    if b"__main__" in data:
        raise UsageError("annotate is called in another process: define it in a module that can be imported")
    return data


def _started() -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "migkit.capture.finisher"]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _send(pipe: IO[bytes], value: Any) -> None:
    pipe.write(pickle.dumps(value))
    pipe.flush()


def finish(journal: Path, annotate: bytes) -> tuple[Recording | None, str]:
    """The trace of a journal, or what is wrong. A journal without a row is removed."""
    try:
        return recover(journal, annotate=pickle.loads(annotate)), ""
    except MigkitError as error:
        return None, "" if _was_empty(journal) else str(error)
    except Exception as error:
        return None, f"{journal}: a defect of migkit, please report it: {type(error).__name__}: {error}"


def _was_empty(journal: Path) -> bool:
    try:
        found = read(journal)
    except MigkitError:
        return False
    if found.rows or found.skipped_bytes:
        return False
    journal.unlink(missing_ok=True)
    return True


def main() -> None:
    """Answers until the watcher closes its end, or is gone; signals are the watcher's."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICER)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            journal, annotate = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            _send(answers, finish(journal, annotate))
        except BrokenPipeError:
            return


if __name__ == "__main__":
    main()

"""migkit's recorder beside a migration of the lab: the `migkit record` that a user runs, as its own process."""

from __future__ import annotations

import contextlib
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from migkit.errors import MigkitError
from migkit.lab.hosts import Lab

READY_TIMEOUT_S = 20.0


class Recording:
    """A recorder that has attached to the guest and waits for its migration."""

    def __init__(self, words: list[str]) -> None:
        self._said: list[str] = []
        self._ready = threading.Event()
        self._process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, name="recorder", daemon=True)
        self._reader.start()

    def wait_until_ready(self) -> None:
        """Raises MigkitError, with the recorder's own words, when it does not come up."""
        self._ready.wait(READY_TIMEOUT_S)
        if not any(line.startswith("waiting") for line in self._said):
            raise MigkitError(f"lab: the recorder did not start ({self._last_words()})")

    def finish(self, timeout_s: float) -> None:
        """Waits for the recorder's end. Raises MigkitError when it fails or takes too long."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise MigkitError(f"lab: the recorder did not end within {timeout_s:.0f} s of the migration") from None
        self._reader.join(5)
        if code:
            raise MigkitError(f"lab: the recorder failed ({self._last_words()})")

    def stop(self) -> None:
        """Ends the recorder if it still runs: politely, so that it keeps what it has, then not."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._reader.join(5)
        assert self._process.stderr is not None
        self._process.stderr.close()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said.append(line.strip())
            if line.startswith("waiting"):
                self._ready.set()
        self._ready.set()

    def _last_words(self) -> str:
        lines = [line for line in self._said if line]
        return lines[-1].removeprefix("migkit: ") if lines else f"exit code {self._process.poll()}, without a word"


@contextlib.contextmanager
def record(lab: Lab, domain: str, output: Path, *, via: bool, interval_ms: float) -> Iterator[Recording]:
    """Records the guest's migration into `output` while the block runs; `via` goes through the host's prefix."""
    words = [sys.executable, "-m", "migkit", "record", domain, "--destination", lab.b.read_only_uri]
    words += ["--interval", f"{interval_ms:g}", "-o", str(output), "--force"]
    words += ["-c", "qemu:///system", "--via", shlex.join(lab.a.prefix)] if via else ["-c", lab.a.read_only_uri]
    recording = Recording(words)
    try:
        recording.wait_until_ready()
        yield recording
    finally:
        recording.stop()

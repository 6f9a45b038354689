"""The guest's heartbeat: what it says on its serial port, stamped with this machine's monotonic clock.

The serial port is a unix socket that QEMU connects to, first on the source, then on the destination. So the order of
the connections tells on which host a line was said.
"""

from __future__ import annotations

import itertools
import math
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from migkit.errors import MigkitError
from migkit.meta import Heartbeat
from migkit.units import NS_PER_MS

SOURCE, DESTINATION = 0, 1


class Line(NamedTuple):
    """A line the guest said: on which connection, when it was complete, and its words."""

    connection: int
    mono_ns: int
    text: str


class Listener:
    """Listens at a unix socket in a thread of its own, from `with` to the end of the block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[Line] = []
        self._changed = threading.Condition()
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._listen, name="heartbeat", daemon=True)
        self._server = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> Listener:
        self.path.unlink(missing_ok=True)
        try:
            self._server.bind(str(self.path))
        except OSError as error:
            raise MigkitError(f"{self.path}: cannot listen there ({error.strerror or error})") from None
        self._server.listen()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._wake.send(b"x")
        self._thread.join()
        self._server.close()
        self._wake.close()
        self._woken.close()
        self.path.unlink(missing_ok=True)

    def wait_for(self, holds: Callable[[Sequence[Line]], bool], timeout_s: float) -> bool:
        """Waits until `holds(lines)`; False when it did not within `timeout_s`."""
        end = time.monotonic() + timeout_s
        with self._changed:
            while not holds(self.lines):
                if (left := end - time.monotonic()) <= 0:
                    return False
                # Lines come a hundred times a second: looking now and then keeps this machine's load down.
                self._changed.wait(min(left, 0.1))
                self._changed.release()
                time.sleep(0.02)
                self._changed.acquire()
        return True

    def _listen(self) -> None:
        connections = 0
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            selector.register(self._server, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._woken:
                        _close_all(selector, keep=(self._woken, self._server))
                        return
                    if key.fileobj is self._server:
                        connection, _address = self._server.accept()
                        selector.register(connection, selectors.EVENT_READ, (connections, bytearray()))
                        connections += 1
                    elif isinstance(key.fileobj, socket.socket) and not self._receive(key.fileobj, *key.data):
                        selector.unregister(key.fileobj)
                        key.fileobj.close()

    def _receive(self, connection: socket.socket, number: int, partial: bytearray) -> bool:
        try:
            data = connection.recv(65536)
        except OSError:
            return False
        now = time.monotonic_ns()
        partial += data
        *complete, rest = bytes(partial).split(b"\n")
        partial[:] = rest
        lines = [Line(number, now, text.decode("ascii", "replace").strip()) for text in complete]
        with self._changed:
            self.lines += lines
            self._changed.notify_all()
        return bool(data)


def said(lines: Iterable[Line], word: str, connection: int | None = None) -> list[Line]:
    """The lines that begin with `word`, of one connection or of all."""
    chosen = (line for line in lines if connection is None or line.connection == connection)
    return [line for line in chosen if line.text.split(" ", 1)[0] == word]


def corrupted(lines: Iterable[Line]) -> bool:
    """Whether the guest found memory that is not what it wrote."""
    return bool(said(lines, "bad"))


def measure(lines: Sequence[Line], *, interval_ms: float, since_ns: int, until_ns: int) -> Heartbeat:
    """The guest's downtime and the gaps of its beats between two moments (monotonic ns).

    `downtime_ms` is None when the guest did not beat on both hosts; `largest_gap_ms` is the largest gap anywhere.
    """
    window = [line for line in lines if since_ns <= line.mono_ns <= until_ns]
    beats = [[line.mono_ns for line in said(window, "hb", side)] for side in (SOURCE, DESTINATION)]
    gaps = sorted(b - a for side in beats for a, b in itertools.pairwise(side))
    # The first words on the destination may be the rest of a line begun on the source: any line counts there.
    arrived = [line.mono_ns for line in window if line.connection == DESTINATION]
    downtimes = [arrived[0] - beats[SOURCE][-1]] if beats[SOURCE] and arrived else []
    return Heartbeat(
        interval_ms=interval_ms,
        downtime_ms=_ms(downtimes[0]) if downtimes else None,
        p99_gap_ms=_ms(gaps[math.ceil(0.99 * len(gaps)) - 1]) if gaps else None,
        largest_gap_ms=_ms(max([*gaps[-1:], *downtimes])) if gaps or downtimes else None,
    )


def _ms(ns: int) -> float:
    return round(ns / NS_PER_MS, 3)


def _close_all(selector: selectors.BaseSelector, keep: Sequence[socket.socket]) -> None:
    for key in list(selector.get_map().values()):
        if isinstance(key.fileobj, socket.socket) and key.fileobj not in keep:
            key.fileobj.close()

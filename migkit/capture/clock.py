"""The time of a domain's world."""

from __future__ import annotations

import time

from migkit.units import NS_PER_S


class Clock:
    """The monotonic clock; for a fake domain one that runs `speed` times as fast from now on."""

    def __init__(self, speed: float = 1.0) -> None:
        self._speed = speed
        self._zero_ns = time.monotonic_ns()

    def now_ns(self) -> int:
        """The time there."""
        return self.at_ns(time.monotonic_ns())

    def at_ns(self, mono_ns: int) -> int:
        """The time there at a moment of our own monotonic clock."""
        return mono_ns if self._speed == 1 else self._zero_ns + int((mono_ns - self._zero_ns) * self._speed)

    def real_s(self, duration_ns: int) -> float:
        """How many of our seconds so much time takes there."""
        return duration_ns / NS_PER_S / self._speed

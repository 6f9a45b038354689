"""A host whose domains migrate in imagination: a watcher, its tests and its benchmark run on it without libvirt.

`fake:///SCENARIO?domains=N&every_ms=T` and the options of a fake domain: N domains, each beginning its migration T ms
of their world after the one before. Every call takes as long as was measured on busy hosts (p50 1.5 ms, p90 5.2 ms,
p99 27 ms, at most 581 ms), and no more are answered at a time than libvirtd answers to one client.
"""

from __future__ import annotations

import contextlib
import functools
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from migkit.capture import source as s
from migkit.capture.fake import OPTIONS, SCENARIOS, FakeDomain, draw_latency_ms, parse_uri
from migkit.errors import MigkitError, unknown

LONGEST_MS: Final = 581.0
CALLS_AT_ONCE: Final = 5

_RESET: Final = (38, "Cannot recv data: Connection reset by peer")


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1000:
        raise ValueError(f"domains {text!r}: must be from 1 to 1000")
    return value


class FakeHost:
    """A Hypervisor of fake domains; `add` brings another one later. Uuids come from the domains' seeds."""

    def __init__(self, domains: Iterable[FakeDomain] = (), *, seed: int = 0, speed: float = 1.0) -> None:
        self.listeners: dict[str, Callable[[s.Event], None]] = {}
        self.speed = speed
        self._guests: dict[str, FakeDomain] = {}
        self._stray: Callable[[str, str, s.Event], None] | None = None
        self._random = random.Random(seed)
        self._permits = threading.BoundedSemaphore(CALLS_AT_ONCE)
        # The daemon's life, counted, and the one that the connection belongs to.
        self._life = self._connection = 0
        self._down = False
        for domain in domains:
            self.add(domain)

    @classmethod
    def from_uri(cls, uri: str) -> FakeHost:
        """The host of `fake:///SCENARIO?domains=N&every_ms=T`, and what a fake domain takes besides."""
        scenario, options = parse_uri(uri, {**OPTIONS, "domains": _count, "every_ms": int})
        if scenario not in SCENARIOS:
            raise MigkitError(str(unknown("fake scenario", scenario, SCENARIOS)))
        count, every_ms, seed = options.pop("domains", 1), options.pop("every_ms", 0), options.pop("seed", 0)
        start_ms = options.pop("start_ms", SCENARIOS[scenario].start_ms)
        domains = (
            FakeDomain(scenario, seed=seed + k, name=f"fake-{k + 1}", start_ms=start_ms + k * every_ms,
                       longest_ms=LONGEST_MS, **options)
            for k in range(count)
        )  # fmt: skip
        return cls(domains, seed=seed, speed=options.get("speed", 1.0))

    @property
    def domains(self) -> list[FakeDomain]:
        """The domains, gone or not."""
        return list(self._guests.values())

    def add(self, domain: FakeDomain) -> None:
        """Another domain, or one that is there once more."""
        uuid = domain.facts().domain.uuid
        self._guests[uuid] = domain
        if self._stray is not None:
            domain.subscribe(functools.partial(self._told, uuid))

    def cut(self) -> None:
        """The daemon dies: no call is answered, no event comes, and the jobs are gone."""
        self._down = True
        for domain in self._guests.values():
            with contextlib.suppress(s.SourceError):
                domain.lose_job()

    def restore(self) -> None:
        """The daemon is there again; the old connection stays dead."""
        self._life += 1
        self._down = False

    def running(self) -> list[tuple[str, str]]:
        with self.call():
            return [(uuid, domain.name) for uuid, domain in self._guests.items() if domain.here]

    def source(self, uuid: str, name: str) -> s.Source:
        return _Guest(self, uuid, self._guests[uuid])

    def subscribe(self, callback: Callable[[str, str, s.Event], None]) -> None:
        self._stray = callback
        for uuid, domain in self._guests.items():
            domain.subscribe(functools.partial(self._told, uuid))

    def reopen(self) -> None:
        if self._down:
            raise s.SourceError(38, "Cannot recv data: Connection reset by peer", lost=True)
        self._connection = self._life

    def close(self) -> None:
        for domain in self._guests.values():
            domain.close()

    @contextlib.contextmanager
    def call(self, *, waits: bool = True) -> Iterator[None]:
        """One call over the connection; `waits` as long as calls do."""
        with self._permits:
            if self._dead:
                raise s.SourceError(1, "internal error: client socket is closed", lost=True)
            if waits:
                time.sleep(draw_latency_ms(self._random, LONGEST_MS) / 1000 / self.speed)
            yield

    @property
    def _dead(self) -> bool:
        return self._down or self._connection != self._life

    def _told(self, uuid: str, event: s.Event) -> None:
        if self._dead:
            return
        listener = self.listeners.get(uuid)
        if listener is not None:
            listener(event)
        elif self._stray is not None:
            self._stray(uuid, self._guests[uuid].name, event)


class _Guest:
    """A Source: one domain of the host, over its connection."""

    def __init__(self, host: FakeHost, uuid: str, domain: FakeDomain) -> None:
        self._host, self._uuid, self._domain = host, uuid, domain

    def job_stats(self) -> dict[str, Any]:
        # The domain itself takes its time here, as it depends on what befalls it meanwhile.
        with self._host.call(waits=False):
            return self._domain.job_stats()

    def state(self) -> tuple[int, int]:
        with self._host.call():
            return self._domain.state()

    def facts(self) -> s.Facts:
        with self._host.call():
            return self._domain.facts()

    def completed_stats(self) -> dict[str, Any] | None:
        with self._host.call():
            return self._domain.completed_stats()

    def max_downtime_ms(self) -> int | None:
        with self._host.call():
            return self._domain.max_downtime_ms()

    def subscribe(self, callback: Callable[[s.Event], None]) -> None:
        self._host.listeners[self._uuid] = callback

    def reopen(self) -> None:
        with self._host.call():
            pass

    def close(self) -> None:
        self._host.listeners.pop(self._uuid, None)

"""Every domain of a real libvirt over one read-only connection, for a watcher."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from migkit.capture.libvirt import (
    EVENTS,
    close_aside,
    connect,
    downtime_limit_ms,
    facts_of,
    final_stats,
    open_connection,
    opened,
    running_domains,
    stamp,
    translated,
)
from migkit.capture.relay import Relay
from migkit.capture.source import Event, Facts

# libvirtd takes 5 requests of a client at a time (max_client_requests) and does not even read a keepalive while five
# hang, which ends the connection: one fewer of ours, the others wait here.
CALLS_AT_ONCE: Final = 4

T = TypeVar("T")


def open_host(uri: str, *, via: str | None = None, via_socket: str | None = None) -> LibvirtHost:
    """The host at a URI, or behind the prefix `via`. Raises MigkitError in one line that says what to do."""
    return opened(lambda at, relay: LibvirtHost(at, relay=relay, via=via or ""), uri, via, via_socket)


class LibvirtHost:
    """A Hypervisor. Raises MigkitError when libvirt cannot be reached."""

    def __init__(self, uri: str, *, relay: Relay | None = None, via: str = "") -> None:
        self.via = via
        self.listeners: dict[str, Callable[[Event], None]] = {}
        self._uri, self._relay = uri, relay
        self._stray: Callable[[str, str, Event], None] | None = None
        self._handles: list[int] = []
        self._domains: dict[str, Any] = {}
        self._permits = threading.BoundedSemaphore(CALLS_AT_ONCE)
        self.connection = connect(uri, side="the host")

    def running(self) -> list[tuple[str, str]]:
        with self._call() as connection:
            self._domains = running_domains(connection)
        return [(uuid, domain.name()) for uuid, domain in self._domains.items()]

    def source(self, uuid: str, name: str) -> HostDomain:
        return HostDomain(self, uuid)

    def subscribe(self, callback: Callable[[str, str, Event], None]) -> None:
        self._stray = callback
        self._register(self.connection)

    def reopen(self) -> None:
        with translated(None):
            connection = open_connection(self._uri)
        close_aside(self.connection, [], wait_s=0)
        self._register(connection)
        self._domains = {}
        # Only now: whoever waits for another connection goes on with it.
        self.connection = connection

    def close(self) -> None:
        self._stray = None
        self.listeners.clear()
        close_aside(self.connection, self._handles)
        if self._relay is not None:
            self._relay.close()

    def ask(self, uuid: str, question: Callable[[Any, Any], T]) -> T:
        """Asks about a domain: what `question` makes of the connection and the domain."""
        with self._call() as connection:
            domain = self._domains.get(uuid)
            if domain is None:
                domain = self._domains[uuid] = connection.lookupByUUIDString(uuid)
            return question(connection, domain)

    def forget(self, uuid: str) -> None:
        """Lets go of a domain and of who listens to it."""
        self.listeners.pop(uuid, None)
        self._domains.pop(uuid, None)

    def check(self, used: Any) -> None:
        """Raises SourceError unless there is another connection than `used` by now, or that one answers after all."""
        if self.connection is used:
            with self._call() as connection:
                connection.getLibVersion()

    @contextmanager
    def _call(self) -> Iterator[Any]:
        with self._permits:
            connection = self.connection
            with translated(connection):
                yield connection

    def _register(self, connection: Any) -> None:
        takers = (self._take_lifecycle, self._take_iteration, self._take_job)
        with translated(connection):
            self._handles = [
                connection.domainEventRegisterAny(None, event, taker, None)
                for event, taker in zip(EVENTS, takers, strict=True)
            ]

    def _take_lifecycle(self, _connection: Any, domain: Any, event: int, detail: int, _opaque: Any) -> None:
        self._tell(domain, Event(kind="lifecycle", lifecycle=(event, detail), **stamp()))

    def _take_iteration(self, _connection: Any, domain: Any, iteration: int, _opaque: Any) -> None:
        self._tell(domain, Event(kind="iteration", iteration=iteration, **stamp()))

    def _take_job(self, _connection: Any, domain: Any, stats: dict[str, Any], _opaque: Any) -> None:
        self._tell(domain, Event(kind="job", stats=dict(stats), **stamp()))

    def _tell(self, domain: Any, event: Event) -> None:
        uuid = domain.UUIDString()
        listener = self.listeners.get(uuid)
        if listener is not None:
            listener(event)
        elif self._stray is not None:
            self._stray(uuid, domain.name(), event)


class HostDomain:
    """A Source: one domain of a host, over the host's connection."""

    def __init__(self, host: LibvirtHost, uuid: str) -> None:
        self._host, self._uuid = host, uuid
        self._used: Any = host.connection

    def job_stats(self) -> dict[str, Any]:
        return self._ask(lambda _, domain: dict(domain.jobStats()))

    def state(self) -> tuple[int, int]:
        state, reason = self._ask(lambda _, domain: domain.state())
        return int(state), int(reason)

    def facts(self) -> Facts:
        return self._ask(lambda connection, domain: facts_of(connection, domain, self._host.via))

    def completed_stats(self) -> dict[str, Any] | None:
        return self._ask(lambda _, domain: final_stats(domain))

    def max_downtime_ms(self) -> int | None:
        return self._ask(lambda _, domain: downtime_limit_ms(domain))

    def subscribe(self, callback: Callable[[Event], None]) -> None:
        self._host.listeners[self._uuid] = callback

    def reopen(self) -> None:
        """The host opens its connection again, once for all its domains; here it is only seen whether it has."""
        self._host.check(self._used)

    def close(self) -> None:
        self._host.forget(self._uuid)

    def _ask(self, question: Callable[[Any, Any], T]) -> T:
        self._used = self._host.connection
        return self._host.ask(self._uuid, question)

"""A domain of a real libvirt, over a read-only connection. It and `writable` are all that imports libvirt here."""

from __future__ import annotations

import contextlib
import difflib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final, TypeVar

from migkit.capture.domain_xml import accelerator_from_xml, domain_from_xml
from migkit.capture.relay import Relay, commands
from migkit.capture.source import Event, Facts, SourceError
from migkit.errors import MigkitError
from migkit.failures import in_a_line, unreachable
from migkit.meta import Domain, Host

try:
    import libvirt
except ImportError as missing:
    raise MigkitError(
        "libvirt's Python bindings are not installed: pip install 'migkit[libvirt]' "
        f"(it is compiled and needs libvirt-dev, pkg-config and gcc first) [{missing}]"
    ) from None

T = TypeVar("T")

KEEPALIVE_S: Final = 5
KEEPALIVE_COUNT: Final = 5

EVENTS: Final = (
    libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
    libvirt.VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION,
    libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED,
)
# Numbers of libvirt that say: the connection is gone, whatever isAlive still believes.
_BROKEN: Final = {libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_ERR_RPC, libvirt.VIR_ERR_INVALID_CONN}
_CLOSED: Final = "client socket is closed"


@functools.cache
def _event_loop() -> None:
    """Starts libvirt's event loop, once a process, before the first connection."""
    libvirt.registerErrorHandler(lambda *_: None, None)
    libvirt.virEventRegisterDefaultImpl()

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, name="libvirt-events", daemon=True).start()


class LibvirtDomain:
    """A Source: one domain at one libvirt URI.

    Raises MigkitError when libvirt cannot be reached or does not know the domain.
    """

    read_only = True

    def __init__(self, domain: str, uri: str, *, relay: Relay | None = None, via: str = "") -> None:
        self.uri = uri
        self._via = via
        self._relay = relay
        self._callback: Callable[[Event], None] | None = None
        self._handles: list[int] = []
        self._connection = connect(uri, read_only=self.read_only)
        self._domain = _find(self._connection, domain, uri)
        self._uuid: str = self._domain.UUIDString()

    def job_stats(self) -> dict[str, Any]:
        with self._errors():
            return dict(self._domain.jobStats())

    def state(self) -> tuple[int, int]:
        with self._errors():
            state, reason = self._domain.state()
            return int(state), int(reason)

    def facts(self) -> Facts:
        with self._errors():
            return facts_of(self._connection, self._domain, self._via, read_only=self.read_only)

    def completed_stats(self) -> dict[str, Any] | None:
        with self._errors():
            return final_stats(self._domain)

    def max_downtime_ms(self) -> int | None:
        with self._errors():
            return downtime_limit_ms(self._domain)

    def subscribe(self, callback: Callable[[Event], None]) -> None:
        self._callback = callback
        with self._errors():
            self._register()

    def reopen(self) -> None:
        close_aside(self._connection, [], wait_s=0)
        try:
            self._connection = open_connection(self.uri, read_only=self.read_only)
            self._domain = self._connection.lookupByUUIDString(self._uuid)
        except libvirt.libvirtError as error:
            gone = error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN
            raise SourceError(error.get_error_code(), error.get_error_message() or "", lost=not gone) from None
        if self._callback is not None:
            with self._errors():
                self._register()

    def close(self) -> None:
        self._callback = None
        close_aside(self._connection, self._handles)
        if self._relay is not None:
            self._relay.close()

    def _register(self) -> None:
        takers = (self._take_lifecycle, self._take_iteration, self._take_job)
        self._handles = [
            self._connection.domainEventRegisterAny(self._domain, event, taker, None)
            for event, taker in zip(EVENTS, takers, strict=True)
        ]

    def _take_lifecycle(self, _connection: Any, _domain: Any, event: int, detail: int, _opaque: Any) -> None:
        self._tell(Event(kind="lifecycle", lifecycle=(event, detail), **stamp()))

    def _take_iteration(self, _connection: Any, _domain: Any, iteration: int, _opaque: Any) -> None:
        self._tell(Event(kind="iteration", iteration=iteration, **stamp()))

    def _take_job(self, _connection: Any, _domain: Any, stats: dict[str, Any], _opaque: Any) -> None:
        self._tell(Event(kind="job", stats=dict(stats), **stamp()))

    def _tell(self, event: Event) -> None:
        if self._callback is not None:
            self._callback(event)

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return translated(self._connection)


class Destination:
    """A Witness: another libvirt, where the domain appears once it is migrated."""

    def __init__(self, uuid: str, uri: str) -> None:
        self._uuid, self._uri = uuid, uri
        self._connection = connect(uri, side="the destination")

    def completed_stats(self) -> dict[str, Any] | None:
        with translated(self._connection):
            return final_stats(self._connection.lookupByUUIDString(self._uuid))

    def state(self) -> tuple[int, int]:
        with translated(self._connection):
            state, reason = self._connection.lookupByUUIDString(self._uuid).state()
            return int(state), int(reason)

    def reopen(self) -> None:
        with translated(None):
            self._connection = open_connection(self._uri)

    def close(self) -> None:
        close_aside(self._connection, [])


@contextlib.contextmanager
def translated(connection: Any) -> Iterator[None]:
    """libvirt's errors as SourceError."""
    try:
        yield
    except libvirt.libvirtError as error:
        code, text = error.get_error_code() or 0, error.get_error_message() or str(error)
        raise SourceError(code, text, lost=_is_lost(connection, code, text)) from None


def _is_lost(connection: Any, code: int, text: str) -> bool:
    if connection is None or code in _BROKEN or _CLOSED in text:
        return True
    return not is_alive(connection)


def is_alive(connection: Any) -> bool:
    """Whether libvirt still believes in the connection."""
    try:
        return bool(connection.isAlive())
    except libvirt.libvirtError:
        return False


def facts_of(connection: Any, domain: Any, via: str, *, read_only: bool = True) -> Facts:
    """Who a domain is and where it runs. Raises libvirt's own errors."""
    xml = domain.XMLDesc()
    host = Host(
        name=connection.getHostname(),
        libvirt_version=_version(connection.getLibVersion()),
        qemu_version=_version(connection.getVersion()),
        accelerator=accelerator_from_xml(xml),
    )
    known = _with_capacities(domain, domain_from_xml(xml))
    return Facts(domain=known, host=host, provenance="recorded", origin="libvirt", via=via, read_only=read_only)


def _with_capacities(guest: Any, domain: Domain) -> Domain:
    """Virtual sizes of the disks, where libvirt tells them."""
    disks = []
    for disk in domain.disks:
        capacity = None
        with contextlib.suppress(libvirt.libvirtError):
            capacity = int(guest.blockInfo(disk.target)[0]) or None
        disks.append(replace(disk, capacity_bytes=capacity))
    return replace(domain, disks=tuple(disks))


def running_domains(connection: Any) -> dict[str, Any]:
    """Each running domain by its uuid. Raises libvirt's own errors."""
    found = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
    return {domain.UUIDString(): domain for domain in found}


def downtime_limit_ms(domain: Any) -> int | None:
    """The downtime limit; the bindings answer a failed call with None here, without an error."""
    limit_ms = domain.migrateGetMaxDowntime()
    return None if limit_ms is None else int(limit_ms)


def final_stats(domain: Any) -> dict[str, Any] | None:
    """The final stats of the last completed job, left in place. Raises libvirt's own errors."""
    flags = libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED | libvirt.VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED
    stats = dict(domain.jobStats(flags))
    return stats if stats.pop("type", 0) == libvirt.VIR_DOMAIN_JOB_COMPLETED else None


def close_aside(connection: Any, handles: list[int], *, wait_s: float = 2) -> None:
    """Closes without waiting long: on a dead link that would hold up the end of a recording for half a minute."""

    def close() -> None:
        with contextlib.suppress(libvirt.libvirtError):
            for handle in handles:
                connection.domainEventDeregisterAny(handle)
            connection.close()

    closing = threading.Thread(target=close, daemon=True)
    closing.start()
    closing.join(wait_s)


def open_domain(domain: str, uri: str, *, via: str | None = None, via_socket: str | None = None) -> LibvirtDomain:
    """The domain at a URI, or behind the prefix `via`. Raises MigkitError in one line that says what to do."""
    return opened(lambda at, relay: LibvirtDomain(domain, at, relay=relay, via=via or ""), uri, via, via_socket)


def opened(make: Callable[[str, Relay | None], T], uri: str, via: str | None, via_socket: str | None) -> T:
    """What `make` makes of a URI, or of one that leads through a relay behind the prefix `via`."""
    _event_loop()
    if via is None:
        return make(uri, None)
    tries, path = commands(via, uri, via_socket)
    failure = ""
    for command in tries:
        relay = Relay(command, path)
        try:
            return make(relay.uri, relay)
        except _UnreachableError as error:
            failure = relay.last_error() or error.text
            relay.close()
        except MigkitError:
            relay.close()
            raise
    raise MigkitError(f"--via {via!r}: {' '.join(tries[-1][len(tries[-1]) - 3 :])} failed there: {failure}")


class _UnreachableError(MigkitError):
    """libvirt cannot be reached; `text` is its message alone."""

    def __init__(self, message: str, text: str) -> None:
        super().__init__(message)
        self.text = text


def open_connection(uri: str, *, read_only: bool = True) -> Any:
    """A connection that is kept alive. Raises libvirt's own errors."""
    connection = libvirt.openReadOnly(uri) if read_only else libvirt.open(uri)
    with contextlib.suppress(libvirt.libvirtError):
        connection.setKeepAlive(KEEPALIVE_S, KEEPALIVE_COUNT)
    return connection


def connect(uri: str, *, read_only: bool = True, side: str = "the source") -> Any:
    """A first connection; `side` says whose libvirt it is. Raises MigkitError that says what to do."""
    _event_loop()
    try:
        return open_connection(uri, read_only=read_only)
    except libvirt.libvirtError as error:
        text = error.get_error_message() or str(error)
        line, failure = text.splitlines()[0], unreachable(text, uri, side)
        told = f"{in_a_line(failure)}; to do: {failure.do}" if failure else line + _hint(line)
        raise _UnreachableError(f"{uri}: {told}", line) from None


def _hint(text: str) -> str:
    lower = text.lower()
    if "permission denied" in lower or "authentication" in lower or "access denied" in lower:
        return "; no permission on libvirt's socket: join the group libvirt, or run as root"
    if "no such file" in lower or "connection refused" in lower:
        return "; is libvirtd (or virtqemud) running there?"
    return ""


def _find(connection: Any, name: str, uri: str) -> Any:
    for look_up in (connection.lookupByName, connection.lookupByUUIDString):
        with contextlib.suppress(libvirt.libvirtError):
            return look_up(name)
    try:
        names = sorted(domain.name() for domain in connection.listAllDomains())
    except libvirt.libvirtError as error:
        raise MigkitError(f"{uri}: {error.get_error_message()}") from None
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    known = f"did you mean {near[0]!r}?" if near else "known: " + (", ".join(names[:10]) or "none")
    raise MigkitError(f"{uri}: no domain {name!r}: {known}")


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def stamp() -> dict[str, Any]:
    """Both clocks now."""
    return {"mono_ns": time.monotonic_ns(), "wall_ns": time.time_ns()}

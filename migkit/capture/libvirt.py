"""A domain of a real libvirt, over a read-only connection. It and `writable` are all that imports libvirt here."""

from __future__ import annotations

import contextlib
import difflib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

from migkit.capture.domain_xml import accelerator_from_xml, domain_from_xml
from migkit.capture.relay import Relay, commands
from migkit.capture.source import Event, Facts, SourceError
from migkit.errors import MigkitError
from migkit.meta import Domain, Host

try:
    import libvirt
except ImportError as missing:
    raise MigkitError(
        "libvirt's Python bindings are not installed: pip install 'migkit[libvirt]' "
        f"(it is compiled and needs libvirt-dev, pkg-config and gcc first) [{missing}]"
    ) from None

KEEPALIVE_S: Final = 5
KEEPALIVE_COUNT: Final = 5

_EVENTS: Final = (
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
            xml = self._domain.XMLDesc()
            host = Host(
                name=self._connection.getHostname(),
                libvirt_version=_version(self._connection.getLibVersion()),
                qemu_version=_version(self._connection.getVersion()),
                accelerator=accelerator_from_xml(xml),
            )
            domain = self._with_capacities(domain_from_xml(xml))
        return Facts(
            domain=domain, host=host, provenance="recorded", origin="libvirt", via=self._via, read_only=self.read_only
        )

    def completed_stats(self) -> dict[str, Any] | None:
        with self._errors():
            return _final(self._domain)

    def max_downtime_ms(self) -> int | None:
        with self._errors():
            limit_ms = self._domain.migrateGetMaxDowntime()
        # The bindings answer a failed call with None here, without an error.
        return None if limit_ms is None else int(limit_ms)

    def subscribe(self, callback: Callable[[Event], None]) -> None:
        self._callback = callback
        with self._errors():
            self._register()

    def reopen(self) -> None:
        _close_aside(self._connection, [], wait_s=0)
        try:
            self._connection = _open(self.uri, read_only=self.read_only)
            self._domain = self._connection.lookupByUUIDString(self._uuid)
        except libvirt.libvirtError as error:
            gone = error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN
            raise SourceError(error.get_error_code(), error.get_error_message() or "", lost=not gone) from None
        if self._callback is not None:
            with self._errors():
                self._register()

    def close(self) -> None:
        self._callback = None
        _close_aside(self._connection, self._handles)
        if self._relay is not None:
            self._relay.close()

    def _register(self) -> None:
        takers = (self._take_lifecycle, self._take_iteration, self._take_job)
        self._handles = [
            self._connection.domainEventRegisterAny(self._domain, event, taker, None)
            for event, taker in zip(_EVENTS, takers, strict=True)
        ]

    def _take_lifecycle(self, _connection: Any, _domain: Any, event: int, detail: int, _opaque: Any) -> None:
        self._tell(Event(kind="lifecycle", lifecycle=(event, detail), **_stamp()))

    def _take_iteration(self, _connection: Any, _domain: Any, iteration: int, _opaque: Any) -> None:
        self._tell(Event(kind="iteration", iteration=iteration, **_stamp()))

    def _take_job(self, _connection: Any, _domain: Any, stats: dict[str, Any], _opaque: Any) -> None:
        self._tell(Event(kind="job", stats=dict(stats), **_stamp()))

    def _tell(self, event: Event) -> None:
        if self._callback is not None:
            self._callback(event)

    def _with_capacities(self, domain: Domain) -> Domain:
        """Virtual sizes of the disks, where libvirt tells them."""
        disks = []
        for disk in domain.disks:
            capacity = None
            with contextlib.suppress(libvirt.libvirtError):
                capacity = int(self._domain.blockInfo(disk.target)[0]) or None
            disks.append(replace(disk, capacity_bytes=capacity))
        return replace(domain, disks=tuple(disks))

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return translated(self._connection)


class Destination:
    """A Witness: another libvirt, where the domain appears once it is migrated."""

    def __init__(self, uuid: str, uri: str) -> None:
        self._uuid, self._uri = uuid, uri
        self._connection = connect(uri, read_only=True)

    def completed_stats(self) -> dict[str, Any] | None:
        with translated(self._connection):
            return _final(self._connection.lookupByUUIDString(self._uuid))

    def state(self) -> tuple[int, int]:
        with translated(self._connection):
            state, reason = self._connection.lookupByUUIDString(self._uuid).state()
            return int(state), int(reason)

    def reopen(self) -> None:
        with translated(None):
            self._connection = _open(self._uri, read_only=True)

    def close(self) -> None:
        _close_aside(self._connection, [])


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


def _final(domain: Any) -> dict[str, Any] | None:
    flags = libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED | libvirt.VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED
    stats = dict(domain.jobStats(flags))
    return stats if stats.pop("type", 0) == libvirt.VIR_DOMAIN_JOB_COMPLETED else None


def _close_aside(connection: Any, handles: list[int], *, wait_s: float = 2) -> None:
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
    _event_loop()
    if via is None:
        return LibvirtDomain(domain, uri)
    tries, path = commands(via, uri, via_socket)
    failure = ""
    for command in tries:
        relay = Relay(command, path)
        try:
            return LibvirtDomain(domain, relay.uri, relay=relay, via=via)
        except _UnreachableError as error:
            failure = relay.last_error() or error.text
            relay.close()
        except MigkitError:
            relay.close()
            raise
    raise MigkitError(f"--via {via!r}: {' '.join(tries[-1][len(tries[-1]) - 3 :])} failed there: {failure}")


class _UnreachableError(MigkitError):
    """libvirt cannot be reached; `text` is its message alone."""

    def __init__(self, uri: str, text: str, hint: str) -> None:
        super().__init__(f"{uri}: {text}{hint}")
        self.text = text


def _open(uri: str, *, read_only: bool) -> Any:
    connection = libvirt.openReadOnly(uri) if read_only else libvirt.open(uri)
    with contextlib.suppress(libvirt.libvirtError):
        connection.setKeepAlive(KEEPALIVE_S, KEEPALIVE_COUNT)
    return connection


def connect(uri: str, *, read_only: bool) -> Any:
    """A connection with keepalive. Raises MigkitError when libvirt cannot be reached."""
    _event_loop()
    try:
        return _open(uri, read_only=read_only)
    except libvirt.libvirtError as error:
        text = (error.get_error_message() or str(error)).splitlines()[0]
        raise _UnreachableError(uri, text, _hint(text)) from None


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


def _stamp() -> dict[str, Any]:
    return {"mono_ns": time.monotonic_ns(), "wall_ns": time.time_ns()}

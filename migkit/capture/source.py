"""What the recorder asks of a domain, whoever answers: libvirt, or a fake one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from migkit.errors import MigkitError, UsageError
from migkit.meta import Domain, Host

NO_DOMAIN: Final = 42
NOT_RUNNING: Final = 55
# Not supported, denied: asking again does not help.
NEVER: Final = (3, 29)

RUNNING: Final = 1
PAUSED: Final = 3
SHUT_OFF: Final = 5
PAUSED_MIGRATION: Final = 2
PAUSED_POSTCOPY: Final = 12
PAUSED_POSTCOPY_FAILED: Final = 13
SHUT_OFF_MIGRATED: Final = 4

EVENT_SUSPENDED: Final = 3
EVENT_STOPPED: Final = 5
SUSPENDED_POSTCOPY: Final = 7
SUSPENDED_POSTCOPY_FAILED: Final = 8
STOPPED_MIGRATED: Final = 3


class SourceError(MigkitError):
    """A call that libvirt refused or could not answer: its code and text; `lost` when the connection is gone."""

    def __init__(self, code: int, text: str, *, lost: bool = False) -> None:
        super().__init__(f"{text} (libvirt error {code})")
        self.code = code
        self.text = text
        self.lost = lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that the domain told by itself, stamped with both clocks when it arrived."""

    kind: Literal["iteration", "lifecycle", "job"]
    mono_ns: int
    wall_ns: int
    iteration: int | None = None
    lifecycle: tuple[int, int] | None = None
    stats: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a trace says about where it comes from."""

    domain: Domain
    host: Host
    provenance: str
    origin: str
    read_only: bool = True
    via: str = ""


class Witness(Protocol):
    """Someone who can tell a migration's final stats. Every call may raise SourceError."""

    def completed_stats(self) -> dict[str, Any] | None:
        """The final stats of the domain's last completed job, left in place for others; None where there are none."""

    def state(self) -> tuple[int, int]:
        """Domain state and its reason."""

    def reopen(self) -> None:
        """Connects again after the connection was lost; subscriptions are kept."""

    def close(self) -> None:
        """Lets go of everything."""


class Source(Witness, Protocol):
    """One domain on its source host. Every call may raise SourceError."""

    def job_stats(self) -> dict[str, Any]:
        """libvirt's job stats by its own keys, plus `type`."""

    def facts(self) -> Facts:
        """Who the domain is and where it runs."""

    def max_downtime_ms(self) -> int | None:
        """The downtime limit that QEMU aims at; None where it is not told."""

    def subscribe(self, callback: Callable[[Event], None]) -> None:
        """Calls back for each event, on a thread of the source's own."""


class Hypervisor(Protocol):
    """Every domain of a host, over one connection. Every call may raise SourceError."""

    def running(self) -> list[tuple[str, str]]:
        """Uuid and name of each domain that runs there."""

    def source(self, uuid: str, name: str) -> Source:
        """One of its domains. Asks nothing yet; closing it leaves the connection to the others."""

    def subscribe(self, callback: Callable[[str, str, Event], None]) -> None:
        """Calls back with uuid, name and event for every domain, those of the future too, but not for one whose
        source has a subscriber of its own."""

    def reopen(self) -> None:
        """Connects again after the connection was lost; subscriptions are kept."""

    def close(self) -> None:
        """Lets go of everything."""


class Actable(Source, Protocol):
    """A domain that can also be acted on. Every call may raise SourceError."""

    def abort_job(self) -> None:
        """Cancels the migration."""

    def start_post_copy(self) -> None:
        """Switches to post-copy."""

    def suspend(self) -> None:
        """Pauses the guest; the migration goes on."""

    def set_max_downtime(self, limit_ms: int) -> None:
        """Sets the downtime limit."""


class Migratable(Actable, Protocol):
    """A domain of which a migration can be started."""

    def xml(self) -> str:
        """libvirt's XML description of the running domain."""

    def migrate(self, destination: str, flags: int, parameters: Mapping[str, Any]) -> None:
        """Migrates the domain to the libvirt at a URI and returns when that has ended. Raises SourceError when it
        fails, `lost` when only the connection was: then nobody knows."""


def open_migratable(domain: str, uri: str, *, waits: bool = False) -> Migratable:
    """The domain at a libvirt URI over a read-write connection, or a fake one; `waits`, one that does not migrate by
    itself. Raises MigkitError when it cannot be reached."""
    if uri.startswith("fake:"):
        from migkit.capture.fake import FakeDomain

        return FakeDomain.from_uri(uri, name=domain, waits=waits)
    from migkit.capture.writable import WritableDomain

    return WritableDomain(domain, uri)


def open_source(domain: str, uri: str, *, via: str | None = None, via_socket: str | None = None) -> Source:
    """The domain at a libvirt URI, or a fake one at `fake:///SCENARIO?seed=N`.

    `via`: a command in front of which libvirt's helper is run on another machine or in a container; `via_socket`: the
    path of libvirt's socket there, where the helper is not installed. Raises MigkitError when it cannot be reached.
    """
    if via_socket is not None and via is None:
        raise UsageError("--via-socket PATH tells where the socket is behind --via PREFIX: give both")
    if uri.startswith("fake:"):
        from migkit.capture.fake import FakeDomain

        if via is not None:
            raise UsageError("--via leads to a libvirt of another place; a fake domain has none")
        return FakeDomain.from_uri(uri, name=domain)
    from migkit.capture.libvirt import open_domain

    return open_domain(domain, uri, via=via, via_socket=via_socket)


def open_witness(uuid: str, uri: str) -> Witness:
    """The host at a URI, asked about a domain that need not be there yet. Raises MigkitError when out of reach."""
    if uri.startswith("fake:"):
        from migkit.capture.fake import FakeDomain

        return FakeDomain.elsewhere(uri)
    from migkit.capture.libvirt import Destination

    return Destination(uuid, uri)


def open_hypervisor(uri: str, *, via: str | None = None, via_socket: str | None = None) -> Hypervisor:
    """The host at a libvirt URI, or a fake one at `fake:///SCENARIO?domains=N`; `via`, `via_socket` as in
    `open_source`. Raises MigkitError when it cannot be reached."""
    if via_socket is not None and via is None:
        raise UsageError("--via-socket PATH tells where the socket is behind --via PREFIX: give both")
    if uri.startswith("fake:"):
        from migkit.capture.fake_host import FakeHost

        if via is not None:
            raise UsageError("--via leads to a libvirt of another place; a fake host has none")
        return FakeHost.from_uri(uri)
    from migkit.capture.libvirt_host import open_host

    return open_host(uri, via=via, via_socket=via_socket)

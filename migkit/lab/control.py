"""What the lab asks of libvirt: start a guest, migrate it, act on it, end it. Only this file imports libvirt."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from migkit.errors import MigkitError
from migkit.lab.hosts import Lab
from migkit.lab.scenario import Migration
from migkit.units import MIB

try:
    import libvirt
except ModuleNotFoundError:
    raise MigkitError(
        "the lab needs libvirt's Python bindings: apt-get install libvirt-dev pkg-config gcc, "
        "then pip install 'migkit[libvirt]'"
    ) from None

# Without this libvirt's bindings print every error on stderr.
libvirt.registerErrorHandler(lambda *_: None, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a call ended; the code and the message are libvirt's."""

    succeeded: bool
    error_code: int | None = None
    error_text: str = ""


def flags(migration: Migration) -> tuple[int, tuple[str, ...]]:
    """The migrate call's flags, and their names in libvirt's order."""
    names = {"VIR_MIGRATE_LIVE": True, "VIR_MIGRATE_PEER2PEER": True}
    names["VIR_MIGRATE_NON_SHARED_DISK"] = migration.block_copy
    names["VIR_MIGRATE_AUTO_CONVERGE"] = migration.auto_converge
    names["VIR_MIGRATE_POSTCOPY"] = migration.post_copy
    names["VIR_MIGRATE_PARALLEL"] = migration.parallel_connections is not None
    names["VIR_MIGRATE_COMPRESSED"] = migration.xbzrle_cache_mib is not None
    values = {name: int(getattr(libvirt, name)) for name, wanted in names.items() if wanted}
    return sum(values.values()), tuple(sorted(values, key=lambda name: values[name]))


def parameters(migration: Migration, address: str) -> dict[str, Any]:
    """The migrate call's parameters by libvirt's names, in libvirt's units."""
    # The port is left to libvirt: with a block copy a fixed one would be taken for the disks as well.
    found: dict[str, Any] = {
        libvirt.VIR_MIGRATE_PARAM_URI: f"tcp://{address}",
        libvirt.VIR_MIGRATE_PARAM_BANDWIDTH: migration.bandwidth_mibps,
    }
    if migration.auto_converge_initial is not None:
        found[libvirt.VIR_MIGRATE_PARAM_AUTO_CONVERGE_INITIAL] = migration.auto_converge_initial
    if migration.auto_converge_increment is not None:
        found[libvirt.VIR_MIGRATE_PARAM_AUTO_CONVERGE_INCREMENT] = migration.auto_converge_increment
    if migration.post_copy_bandwidth_mibps is not None:
        found[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH_POSTCOPY] = migration.post_copy_bandwidth_mibps
    if migration.parallel_connections is not None:
        found[libvirt.VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS] = migration.parallel_connections
    if migration.xbzrle_cache_mib is not None:
        found[libvirt.VIR_MIGRATE_PARAM_COMPRESSION] = ["xbzrle"]
        found[libvirt.VIR_MIGRATE_PARAM_COMPRESSION_XBZRLE_CACHE] = migration.xbzrle_cache_mib * MIB
    return found


class Control:
    """Connections to both hosts of a lab, and a third for the migrate call, which blocks until the migration ends."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._open: list[Any] = []
        try:
            self._source, self._destination, self._caller = (
                self._connect(h) for h in (lab.a.uri, lab.b.uri, lab.a.uri)
            )
        except libvirt.libvirtError as error:
            self.close()
            raise MigkitError(f"lab: libvirtd does not answer ({_text(error)}); migkit lab down, then up") from None

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        for connection in self._open:
            with contextlib.suppress(libvirt.libvirtError):
                connection.close()
        self._open.clear()

    def start_guest(self, xml: str) -> None:
        """Starts a guest on the source. Raises MigkitError when libvirt refuses it."""
        with _clear("the guest does not start"):
            self._source.createXML(xml)

    def set_downtime_limit(self, domain: str, downtime_ms: int | None) -> int:
        """Sets the downtime limit if one is given; returns the one in force, ms."""
        with _clear("the downtime limit cannot be set"):
            guest = self._source.lookupByName(domain)
            if downtime_ms is not None:
                guest.migrateSetMaxDowntime(downtime_ms, 0)
            return int(guest.migrateGetMaxDowntime(0))

    def migrate(self, domain: str, migration: Migration) -> Outcome:
        """Migrates the guest to the other host; returns when the migration has ended, in whatever way."""
        address = self.lab.b.address
        to = f"qemu+tcp://{address}/system"

        def call() -> None:
            guest = self._caller.lookupByName(domain)
            guest.migrateToURI3(to, parameters(migration, address), flags(migration)[0])

        return _outcome(call)

    def act(self, domain: str, action: str, argument: float | None = None) -> Outcome:
        """Does one of the scenario's actions that are libvirt's; the argument in the unit of its key."""
        calls: dict[str, Callable[[Any], Any]] = {
            "start_post_copy": lambda guest: guest.migrateStartPostCopy(0),
            "suspend": lambda guest: guest.suspend(),
            "abort": lambda guest: guest.abortJob(),
            "set_max_downtime": lambda guest: guest.migrateSetMaxDowntime(int(argument or 0), 0),
            "destroy_guest": lambda guest: guest.destroy(),
            "set_bandwidth": lambda guest: guest.migrateSetMaxSpeed(int(argument or 0), 0),
        }
        return _outcome(lambda: calls[action](self._source.lookupByName(domain)))

    def end_guest(self, domain: str) -> None:
        """Ends the guest on both hosts, and with it a migration that still runs."""
        for uri in (self.lab.a.uri, self.lab.b.uri):
            # Connections of their own: those of a daemon that was restarted are dead.
            with contextlib.suppress(libvirt.libvirtError), contextlib.closing(libvirt.open(uri)) as connection:
                _end(connection.lookupByName(domain))

    def end_all_guests(self) -> None:
        """Ends every guest on both hosts."""
        for connection in (self._source, self._destination):
            for guest in connection.listAllDomains():
                _end(guest)

    def _connect(self, uri: str) -> Any:
        connection = libvirt.open(uri)
        self._open.append(connection)
        return connection


def _end(guest: Any) -> None:
    """Ends a guest, and forgets it where KubeVirt's flags have had it defined."""
    with contextlib.suppress(libvirt.libvirtError):
        guest.destroy()
    with contextlib.suppress(libvirt.libvirtError):
        if guest.isPersistent():
            guest.undefine()


def _outcome(call: Callable[[], Any]) -> Outcome:
    try:
        call()
    except libvirt.libvirtError as error:
        return Outcome(succeeded=False, error_code=error.get_error_code(), error_text=_text(error))
    return Outcome(succeeded=True)


@contextlib.contextmanager
def _clear(what: str) -> Iterator[None]:
    try:
        yield
    except libvirt.libvirtError as error:
        raise MigkitError(f"lab: {what}: {_text(error)}") from None


def _text(error: libvirt.libvirtError) -> str:
    return str(error.get_error_message() or error).splitlines()[0]

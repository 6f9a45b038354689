"""A domain of a real libvirt that is migrated and acted on, over a read-write connection."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import libvirt

from migkit.capture.libvirt import LibvirtDomain, connect, is_alive
from migkit.capture.source import SourceError


class WritableDomain(LibvirtDomain):
    """A Migratable. Raises MigkitError when libvirt cannot be reached or does not know the domain."""

    read_only = False

    def xml(self) -> str:
        with self._errors():
            return str(self._domain.XMLDesc())

    def abort_job(self) -> None:
        with self._errors():
            self._domain.abortJob()

    def start_post_copy(self) -> None:
        with self._errors():
            self._domain.migrateStartPostCopy(0)

    def suspend(self) -> None:
        with self._errors():
            self._domain.suspend()

    def set_max_downtime(self, limit_ms: int) -> None:
        with self._errors():
            self._domain.migrateSetMaxDowntime(limit_ms, 0)

    def migrate(self, destination: str, flags: int, parameters: Mapping[str, Any]) -> None:
        # The call blocks for as long as the migration takes: it has a connection of its own.
        connection = connect(self.uri, read_only=False)
        with contextlib.closing(connection), _call_errors(connection):
            connection.lookupByUUIDString(self._uuid).migrateToURI3(destination, dict(parameters), flags)


@contextlib.contextmanager
def _call_errors(connection: Any) -> Iterator[None]:
    """As SourceError. "client socket is closed" may be said of the destination's connection as well as of ours, so
    only a dead connection of ours counts as lost."""
    try:
        yield
    except libvirt.libvirtError as error:
        text = error.get_error_message() or str(error)
        raise SourceError(error.get_error_code() or 0, text, lost=not is_alive(connection)) from None

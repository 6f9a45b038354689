"""Leaves out what names guests, hosts and storage, so that a trace can be given away."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from typing import Any, Final

from migkit.capture.source import Facts
from migkit.meta import TraceMeta

_QUOTED: Final = re.compile(r"'(?!migration (?:in|out)')[^']*'")
_TEXTS: Final = ("error_text", "error_message")


class Mask:
    """Replaces the name and uuid of one domain by `vm-` and 8 hex digits of the uuid's SHA-256.

    The same guest has the same mask in every recording. libvirt quotes names in its messages: what is quoted is left
    out of them, but for the names of jobs.
    """

    def __init__(self, facts: Facts) -> None:
        identity = facts.domain.uuid or facts.domain.name
        self.name = "vm-" + hashlib.sha256(identity.encode()).hexdigest()[:8]
        self._names = [name for name in (facts.domain.name, facts.domain.uuid, facts.host.name) if name]

    def meta(self, meta: TraceMeta) -> TraceMeta:
        """The metadata without names."""
        disks = tuple(dataclasses.replace(disk, source="") for disk in meta.domain.disks)
        return dataclasses.replace(
            meta,
            origin=self.text(meta.origin),
            domain=dataclasses.replace(meta.domain, name=self.name, uuid=self.name, disks=disks),
            host=dataclasses.replace(meta.host, name=""),
            cadence=dataclasses.replace(meta.cadence, via="", names_masked=True),
        )

    def row(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row without names in its messages."""
        masked = {name: self.text(row[name]) for name in _TEXTS if isinstance(row.get(name), str)}
        return row | masked if masked else row

    def text(self, text: str) -> str:
        """A message without names."""
        for name in self._names:
            text = text.replace(name, self.name)
        return _QUOTED.sub("'...'", text)

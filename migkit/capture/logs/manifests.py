"""VirtualMachineInstance and VirtualMachineInstanceMigration objects: what a log leaves out about a migration.

Fields: kubevirt/kubevirt staging/src/kubevirt.io/api/core/v1/types.go, v0.59.0 to main at d923fdb815.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifests:
    """The objects at hand."""

    objects: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, paths: Sequence[str | os.PathLike[str]]) -> Manifests:
        return cls()

    def add_found(self, found: Iterator[Any]) -> None:
        pass

"""A lab for the tests that make real migrations; they are skipped, with the reason, where there can be none."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from migkit.errors import MigkitError
from migkit.lab import command, guest, hosts

if TYPE_CHECKING:
    from migkit.lab.hosts import Lab

ENABLE = (
    "to enable, as root: apt-get install qemu-system-x86 qemu-utils libvirt-daemon-system libvirt-clients libvirt-dev "
    "pkg-config gcc libc6-dev iproute2 netcat-openbsd, then pip install 'migkit[libvirt]'"
)


@pytest.fixture(scope="session")
def lab_ready() -> None:
    """Skips the test where no lab can be; fails it instead when MIGKIT_REQUIRE_LAB=1."""
    try:
        hosts.require_root()
        for program in ("libvirtd", "qemu-system-x86_64", "ip", "gcc", "nc"):
            command.find(program)
        from migkit.lab import control

        assert control
        guest.image()
    except MigkitError as error:
        _refuse(str(error))


@pytest.fixture(scope="session")
def lab(lab_ready: None) -> Iterator[Lab]:
    """A lab that is up for all tests of the session, and leaves nothing behind."""
    with tempfile.TemporaryDirectory(prefix="mklab", dir="/var/tmp") as temporary:
        folder = Path(temporary) / "lab"
        try:
            made = hosts.up(folder, accelerator=guest.accelerator(guest.image()))
        except MigkitError as error:
            _refuse(str(error))
        yield made
        hosts.down(folder)
        assert hosts.leftovers(folder) == []


def _refuse(reason: str) -> None:
    if os.environ.get("MIGKIT_REQUIRE_LAB") == "1":
        pytest.fail(f"MIGKIT_REQUIRE_LAB=1, but {reason}")
    pytest.skip(f"{reason}; {ENABLE}")

"""External commands: one way to call them, and one line when they are missing or fail."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from migkit.errors import MigkitError

_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
_PACKAGES = {
    "apt-cache": "apt",
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "gcc": "gcc libc6-dev",
    "ip": "iproute2",
    "iptables": "iptables",
    "libvirtd": "libvirt-daemon-system",
    "mount": "mount",
    "nsenter": "util-linux",
    "qemu-system-x86_64": "qemu-system-x86",
    "setsid": "util-linux",
    "ss": "iproute2",
    "tc": "iproute2",
    "unshare": "util-linux",
    "virsh": "libvirt-clients",
}


def find(name: str) -> str:
    """The path of a program. Raises MigkitError, naming the Debian package, when it is not installed."""
    path = shutil.which(name, path=_PATH)
    if path is None:
        raise MigkitError(f"the lab needs {name}: apt-get install {_PACKAGES.get(name, name)}")
    return path


def call(*words: str, timeout_s: float = 60, cwd: str | None = None) -> str:
    """Runs a program to its end and returns what it printed.

    Raises MigkitError in one line when it is missing, fails or takes longer than `timeout_s`.
    """
    name = words[0]
    try:
        done = subprocess.run(
            [find(name), *words[1:]],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout_s, cwd=cwd,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise MigkitError(f"lab: {_short(words)} did not finish within {timeout_s:.0f} s") from None
    except OSError as error:
        raise MigkitError(f"lab: {name} cannot be run ({error.strerror or error})") from None
    if done.returncode:
        raise MigkitError(f"lab: {_short(words)} failed: {_last_line(done.stderr or done.stdout) or done.returncode}")
    return done.stdout


def _short(words: Sequence[str]) -> str:
    text = " ".join(words)
    return text if len(text) <= 100 else text[:97] + "..."


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""

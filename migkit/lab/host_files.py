"""The files of a host of the lab: libvirt's settings, and the script that makes its namespaces a host."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from migkit.errors import MigkitError

MARK = "this-is-a-migkit-lab"
_BOUND = {
    "run": "/run/libvirt",
    "lib": "/var/lib/libvirt",
    "etc": "/etc/libvirt",
    "log": "/var/log/libvirt",
    "cache": "/var/cache/libvirt",
}
_LIBVIRTD = """\
listen_tls = 0
listen_tcp = 1
listen_addr = "{address}"
auth_tcp = "none"
auth_unix_ro = "none"
auth_unix_rw = "none"
host_uuid = "{host_uuid}"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
"""
# Everything that would reach outside the namespaces or need a service of the machine is off.
_QEMU = """\
user = "root"
group = "root"
security_driver = "none"
dynamic_ownership = 0
remember_owner = 0
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
"""


def prepare(folder: Path) -> None:
    """Makes the lab's folder, and marks it as one that may be removed again.

    Raises MigkitError when it holds something else, cannot be made, or makes paths too long for a unix socket.
    """
    if len(os.fsencode(folder)) > 70:
        raise MigkitError(f"{folder}: the path is too long for unix sockets (70 characters); choose another --dir")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()) and not (folder / MARK).exists():
            raise MigkitError(f"{folder}: holds something else; choose an empty or a new folder")
        (folder / MARK).touch()
    except OSError as error:
        raise MigkitError(f"{folder}: cannot be made ({error.strerror or error})") from None


def write(folder: Path, *, hostname: str, address: str, host_uuid: str) -> None:
    """Writes the files of one host into its folder."""
    for name in (*_BOUND, "lib/images"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "etc" / "libvirtd.conf").write_text(_LIBVIRTD.format(address=address, host_uuid=host_uuid))
    (folder / "etc" / "qemu.conf").write_text(_QEMU)
    (folder / "hosts").write_text(f"127.0.0.1 localhost\n{address} {hostname}\n")
    # Without this every look-up of a name waits for a name server that the namespace cannot reach.
    (folder / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files\nservices: files\n")
    (folder / "holder.sh").write_text(_holder_script(folder, hostname))


def _holder_script(folder: Path, hostname: str) -> str:
    at = shlex.quote(str(folder))
    lines = ["set -e", f"hostname {hostname}", "ip link set lo up"]
    for name, target in _BOUND.items():
        lines += [f"mkdir -p {target}", f"mount --bind {at}/{name} {target}"]
    lines += [
        f"if [ -e /etc/{name} ]; then mount --bind {at}/{name} /etc/{name}; fi" for name in ("hosts", "nsswitch.conf")
    ]
    # Lock files, and the buses by which libvirtd would register its guests with the machine's systemd.
    lines += [f"if [ -d {d} ]; then mount -t tmpfs tmpfs {d}; fi" for d in ("/run/lock", "/run/dbus", "/run/systemd")]
    lines += [f"echo $$ >{at}/holder.part", f"mv {at}/holder.part {at}/holder.pid", "exec sleep infinity"]
    return "\n".join(lines) + "\n"


def save_json(path: Path, value: Mapping[str, object]) -> None:
    """Writes JSON whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=1))
    os.replace(part, path)


def last_line(path: Path) -> str:
    """The last line of a log, empty when there is none."""
    try:
        lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    return lines[-1] if lines else ""

"""Two hosts on one machine: each a network, mount and UTS namespace with a libvirtd of its own, joined by a veth pair.

Nothing has a name outside the namespaces: when the processes in them are gone, links and mounts are gone too. What the
lab needs to know later stands in `state.json` of its folder, so another process can use the lab or take it down.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import signal
import socket
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from migkit.errors import MigkitError
from migkit.lab import host_files
from migkit.lab.command import call, find
from migkit.units import MIB

LINK = "mklab0"
MIGRATION_PORTS = "49152:49215"
STOP_TIMEOUT_S = 20.0
START_TIMEOUT_S = 30.0
USER_TIMEOUT_S = 60.0


def default_folder() -> Path:
    """The lab's folder unless one is chosen: $XDG_RUNTIME_DIR/migkit-lab, or /var/tmp/migkit-lab."""
    return Path(os.environ.get("XDG_RUNTIME_DIR") or "/var/tmp") / "migkit-lab"


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One of the two hosts. `holder` is the process that keeps its namespaces, `net_ns` the inode of the network's."""

    name: str
    folder: Path
    address: str
    holder: int
    net_ns: int

    @property
    def uri(self) -> str:
        """libvirt's URI from outside the namespaces."""
        return f"qemu+unix:///system?socket={self.folder}/run/libvirt-sock"

    @property
    def read_only_uri(self) -> str:
        """The same for a read-only connection."""
        return f"{self.uri}-ro"

    @property
    def prefix(self) -> tuple[str, ...]:
        """What to put before a command to run it on this host, as one would `ssh HOST`."""
        return ("nsenter", "--target", str(self.holder), "--mount", "--net", "--uts", "--")

    @property
    def up(self) -> bool:
        """Whether its libvirtd accepts connections."""
        return self.alive and _accepts(self.folder / "run" / "libvirt-sock")

    @property
    def alive(self) -> bool:
        """Whether its namespaces are still kept."""
        return _net_ns(self.holder) == self.net_ns

    def call(self, *words: str, timeout_s: float = 60) -> str:
        """Runs a command on this host."""
        return call(*self.prefix, find(words[0]), *words[1:], timeout_s=timeout_s)

    def processes(self) -> list[int]:
        """Every process in the host's network namespace."""
        return [pid for pid in _all_processes() if _net_ns(pid) == self.net_ns]

    def qemu(self, domain: str) -> int | None:
        """The process of a running domain, None when there is none."""
        try:
            pid = int((self.folder / "run" / "qemu" / f"{domain}.pid").read_text())
        except (OSError, ValueError):
            return None
        return pid if _net_ns(pid) == self.net_ns else None

    def set_link(self, *, up: bool) -> None:
        """Takes the link between the hosts up or down, as pulling the cable would."""
        self.call("ip", "link", "set", LINK, "up" if up else "down")

    def limit_link(self, mibps: float | None) -> None:
        """Lets no more than `mibps` MiB/s out onto the link; None takes the limit away."""
        limited = "tbf" in self.call("tc", "qdisc", "show", "dev", LINK)
        if mibps is not None:
            bits = round(mibps * MIB * 8)
            self.call("tc", "qdisc", "replace", "dev", LINK, "root", "tbf", "rate", f"{bits}bit",
                      "burst", str(max(65536, bits // 800)), "latency", "200ms")  # fmt: skip
        elif limited:
            self.call("tc", "qdisc", "del", "dev", LINK, "root")

    def block_port(self, *, blocked: bool) -> None:
        """Drops what goes to the ports that QEMU migrates over, and nothing else."""
        rule = ("OUTPUT", "-p", "tcp", "--dport", MIGRATION_PORTS, "-j", "DROP")
        held = self.call("iptables", "-S", "OUTPUT").count(MIGRATION_PORTS)
        for _ in range(held):
            self.call("iptables", "-D", *rule)
        if blocked:
            self.call("iptables", "-I", *rule)

    def cut_socket(self, address: str) -> bool:
        """Breaks the migration's connections to `address`, as a reset would; whether there were any."""
        first = MIGRATION_PORTS.split(":")[0]
        return first in self.call("ss", "-H", "-n", "-K", "-t", "dst", address, "dport", "ge", first)

    def kill_daemon(self) -> bool:
        """Kills its libvirtd; the guests live on. Whether there was one."""
        pid = _daemon(self)
        if pid is None:
            return False
        _kill(pid, signal.SIGKILL)
        return wait_until(lambda: _net_ns(pid) != self.net_ns, STOP_TIMEOUT_S)

    def start_daemon(self) -> None:
        """Starts its libvirtd. Raises MigkitError when it does not answer."""
        _start_daemon(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """A lab that is up: migrations go from host `a` to host `b`. `accelerator` is kvm or tcg."""

    folder: Path
    a: Host
    b: Host
    accelerator: str

    @property
    def hosts(self) -> tuple[Host, Host]:
        """Both hosts."""
        return self.a, self.b

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Holds the lab for one migration. Raises MigkitError when another process migrates in it."""
        with open(self.folder / "lock", "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise MigkitError(f"{self.folder}: another migration is running in this lab; use --dir") from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield


def require_root() -> None:
    """Raises MigkitError unless the process may make namespaces."""
    if os.geteuid() != 0:
        raise MigkitError("the lab makes namespaces and runs libvirtd: run it as root")


def find_lab(folder: Path | None = None) -> Lab | None:
    """The lab in `folder` when it is up, None otherwise."""
    lab = _load(folder or default_folder())
    return lab if lab is not None and all(host.up for host in lab.hosts) else None


def up(folder: Path | None = None, *, accelerator: str) -> Lab:
    """Brings the lab up, or returns it when it is up already.

    Raises MigkitError when a program is missing, without root, or when a daemon does not start; nothing is left then.
    """
    require_root()
    folder = (folder or default_folder()).resolve()
    for program in ("libvirtd", "virsh", "qemu-system-x86_64", "ip", "unshare", "nsenter", "setsid"):
        find(program)
    if (lab := find_lab(folder)) is not None:
        return lab
    down(folder)
    try:
        return _start(folder, accelerator)
    except BaseException:
        down(folder)
        raise


def down(folder: Path | None = None) -> None:
    """Takes the lab down: its guests, daemons and namespaces, then its folder. Does nothing when there is no lab."""
    folder = (folder or default_folder()).resolve()
    lab = _load(folder)
    if lab is not None:
        require_root()
        for host in lab.hosts:
            _stop(host)
        # Who was migrating here has lost its guest, and ends.
        wait_until(lambda: _user(folder) is None, USER_TIMEOUT_S)
        if left := leftovers(folder):
            raise MigkitError(f"{folder}: the lab is not quite down: {left[0]} is left")
    if (folder / host_files.MARK).exists():
        shutil.rmtree(folder, ignore_errors=True)


def leftovers(folder: Path | None = None) -> list[str]:
    """What is left of the lab in `folder`: processes, namespaces, mounts, links, sockets; empty when it is down."""
    folder = (folder or default_folder()).resolve()
    lab = _load(folder)
    found = []
    for host in lab.hosts if lab else ():
        found += [f"process {pid} ({_name(pid)}) in the namespace of host {host.name}" for pid in host.processes()]
    if (user := _user(folder)) is not None:
        found.append(f"process {user} ({_name(user)}), which migrates in it")
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [f"mount {line.split()[4]}" for line in mounts if str(folder) in line.split()[3:5]]
    found += [f"link {name}" for _, name in socket.if_nameindex() if name == LINK]
    sockets = (line.split(maxsplit=7) for line in Path("/proc/net/unix").read_text().splitlines())
    found += [f"socket {words[7]}" for words in sockets if words[7:] and Path(words[7]).is_relative_to(folder)]
    return found


def wait_until(condition: Callable[[], bool], timeout_s: float, *, every_s: float = 0.05) -> bool:
    """Waits until `condition` holds; False when it did not within `timeout_s`."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(every_s)
    return True


def _start(folder: Path, accelerator: str) -> Lab:
    hosts = []
    tag = f"mklab{zlib.crc32(os.fsencode(folder)):08x}"
    state: dict[str, object] = {"boot_id": _boot_id(), "accelerator": accelerator, "hosts": []}
    host_files.prepare(folder)
    for name, address in (("a", "10.211.0.1"), ("b", "10.211.0.2")):
        host_files.write(folder / name, hostname=f"{tag}{name}", address=address, host_uuid=str(uuid.uuid4()))
        host = _hold(folder / name, name, address)
        hosts.append(host)
        state["hosts"] = [{"name": h.name, "address": h.address, "holder": h.holder, "net_ns": h.net_ns} for h in hosts]
        host_files.save_json(folder / "state.json", state)
    lab = Lab(folder=folder, a=hosts[0], b=hosts[1], accelerator=accelerator)
    _join(lab)
    for host in lab.hosts:
        _start_daemon(host)
    _examine_emulator(lab)
    return lab


def _hold(folder: Path, name: str, address: str) -> Host:
    """Makes a host's namespaces and a process that keeps them."""
    pid_file, log, script = folder / "holder.pid", folder / "holder.log", folder / "holder.sh"
    unshare = shlex.join([find("unshare"), "--mount", "--uts", "--net", "sh", str(script)])
    call("setsid", "--fork", "sh", "-c", f"exec {unshare} >{shlex.quote(str(log))} 2>&1")
    wait_until(lambda: pid_file.exists() or bool(host_files.last_line(log)), 10)
    if not wait_until(pid_file.exists, 1):  # a moment more, should the words have been a mere warning
        raise MigkitError(f"lab: namespaces cannot be made here ({host_files.last_line(log) or 'no answer'})")
    holder = int(pid_file.read_text())
    net_ns = _net_ns(holder)
    if net_ns is None:
        raise MigkitError(f"lab: host {name} did not start ({host_files.last_line(log) or 'its holder ended'})")
    return Host(name=name, folder=folder, address=address, holder=holder, net_ns=net_ns)


def _join(lab: Lab) -> None:
    peer = ("peer", "name", LINK, "netns", str(lab.b.holder))
    call("ip", "link", "add", "name", LINK, "netns", str(lab.a.holder), "type", "veth", *peer)
    for host in lab.hosts:
        host.call("ip", "address", "add", f"{host.address}/24", "dev", LINK)
        host.set_link(up=True)


def _start_daemon(host: Host) -> None:
    log = host.folder / "log" / "libvirtd.log"
    host.call("libvirtd", "--daemon", "--listen", "--config", "/etc/libvirt/libvirtd.conf",
              "--pid-file", "/run/libvirt/libvirtd.pid")  # fmt: skip
    if not wait_until(lambda: host.up, START_TIMEOUT_S):
        raise MigkitError(
            f"lab: libvirtd of host {host.name} does not answer ({host_files.last_line(log) or 'no log'})"
        )


def _examine_emulator(lab: Lab) -> None:
    """Lets the daemons look at QEMU now: it takes seconds, and must not become part of the first migration."""
    call("virsh", "--connect", lab.a.uri, "domcapabilities")
    shutil.copytree(lab.a.folder / "cache", lab.b.folder / "cache", dirs_exist_ok=True)
    call("virsh", "--connect", lab.b.uri, "domcapabilities")


def _stop(host: Host) -> None:
    """Guests first, the daemon in its own way, then whatever is left in the namespace."""
    daemon = _daemon(host)
    for pid in host.processes():
        if pid not in (daemon, host.holder):
            _kill(pid, signal.SIGKILL)
    if daemon is not None:
        _kill(daemon, signal.SIGTERM)
        wait_until(lambda: _net_ns(daemon) != host.net_ns, STOP_TIMEOUT_S)
    for pid in host.processes():
        _kill(pid, signal.SIGKILL)
    wait_until(lambda: not host.processes(), 5)


def _user(folder: Path) -> int | None:
    """The process that migrates in the lab, None when nobody does."""
    try:
        with open(folder / "lock", "r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return int((folder / "lock").read_text() or 0)
    except OSError:
        return None
    return None


def _daemon(host: Host) -> int | None:
    try:
        pid = int((host.folder / "run" / "libvirtd.pid").read_text())
    except (OSError, ValueError):
        return None
    return pid if _net_ns(pid) == host.net_ns else None


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _load(folder: Path) -> Lab | None:
    """The lab that `state.json` tells of, up or not; None when there is none or it is of an earlier boot."""
    try:
        state = json.loads((folder / "state.json").read_text())
        if state["boot_id"] != _boot_id():
            return None
        hosts = [Host(folder=folder / entry["name"], **entry) for entry in state["hosts"]]
        hosts += [Host(name="b", folder=folder / "b", address="", holder=0, net_ns=0)] * (2 - len(hosts))
        return Lab(folder=folder, a=hosts[0], b=hosts[1], accelerator=state["accelerator"])
    except FileNotFoundError:
        return None
    except PermissionError:
        raise MigkitError(f"{folder}: no permission; the lab was brought up by root: run as root") from None
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise MigkitError(f"{folder}/state.json: damaged ({error}); end the lab's processes and remove it") from None


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _all_processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _net_ns(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return None


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "ended"


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True

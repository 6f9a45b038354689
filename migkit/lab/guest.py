"""What the lab's guest is made of: a kernel, an initial file system with one program, and how it is started.

The kernel is Debian's cloud kernel, fetched and unpacked but not installed. Everything is kept in a cache folder.
Without hardware virtualisation the guest flushes its TLB every few ms: QEMU's TCG can lose track of writes to pages
whose translation is still cached, and the destination then runs on stale memory.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import selectors
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from migkit.errors import MigkitError
from migkit.lab.command import call, find
from migkit.lab.host_files import save_json

SOURCE = Path(__file__).with_name("guest") / "init.c"
EMULATOR = "qemu-system-x86_64"
TCG_FLUSH_MS = 2
PROBE_TIMEOUT_S = 15.0
_KERNEL_PACKAGE = "linux-image-cloud-amd64"
_COMMAND_LINE = "console=ttyS0 quiet loglevel=1 nokaslr mitigations=off panic=0"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestImage:
    """The files a guest boots from."""

    kernel: Path
    initramfs: Path


def cache_folder() -> Path:
    """Where kernel and initramfs are kept: $MIGKIT_LAB_CACHE, or ~/.cache/migkit/lab."""
    return Path(os.environ.get("MIGKIT_LAB_CACHE") or Path.home() / ".cache" / "migkit" / "lab")


def image() -> GuestImage:
    """The guest's files, made on first use. Raises MigkitError when no kernel or no compiler is to be had."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return GuestImage(kernel=_kernel(folder), initramfs=_initramfs(folder))
    except OSError as error:
        raise MigkitError(f"{folder}: the guest cannot be made there ({error.strerror or error})") from None


def command_line(settings: Mapping[str, object]) -> str:
    """The kernel's command line with the settings of `init.c`; true becomes 1."""
    words = (f"{key}={int(value) if isinstance(value, bool) else value}" for key, value in settings.items())
    return " ".join([_COMMAND_LINE, *words])


def accelerator(guest: GuestImage) -> str:
    """kvm where a guest really boots with it, else tcg. The answer is kept per machine, QEMU and kernel."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    key = f"{platform.release()} {_cpu()} {call(EMULATOR, '--version').splitlines()[0]} {guest.kernel.name}"
    path = cache_folder() / f"kvm-{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"
    if not path.exists():
        save_json(path, {"machine": key, "kvm": boots(guest, "kvm", PROBE_TIMEOUT_S)})
    return "kvm" if '"kvm": true' in path.read_text() else "tcg"


def boots(guest: GuestImage, accel: str, timeout_s: float) -> bool:
    """Whether a small guest comes up under this accelerator and says that its memory is as it should be."""
    words = [find(EMULATOR), "-accel", accel, "-m", "256", "-nodefaults", "-no-user-config", "-display", "none",
             "-kernel", str(guest.kernel), "-initrd", str(guest.initramfs), "-serial", "stdio", "-append",
             command_line({"pattern": "random", "ws_mib": 32, "rate_mibps": 16, "hb_ms": 10})]  # fmt: skip
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    seen, end = b"", time.monotonic() + timeout_s
    with process.stdout, selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while time.monotonic() < end and not re.search(rb"\n(ok|bad) ", seen):
            if selector.select(0.2):
                chunk = os.read(process.stdout.fileno(), 65536)
                if not chunk:
                    break
                seen += chunk
        process.kill()
        process.wait()
    return b"\nok " in seen and b"\nbad " not in seen


def _kernel(folder: Path) -> Path:
    chosen = os.environ.get("MIGKIT_LAB_KERNEL")
    if chosen:
        if not Path(chosen).is_file():
            raise MigkitError(f"MIGKIT_LAB_KERNEL={chosen}: no such file")
        return Path(chosen).resolve()
    if kept := sorted(folder.glob("vmlinuz-*")):
        return kept[-1].resolve()
    try:
        return _fetch_kernel(folder)
    except MigkitError as error:
        if installed := sorted(Path("/boot").glob("vmlinuz-*")):
            return installed[-1].resolve()
        raise MigkitError(f"{error}; set MIGKIT_LAB_KERNEL to a kernel with a serial console") from None


def _fetch_kernel(folder: Path) -> Path:
    depends = re.search(r"Depends: (linux-image-\S+)", call("apt-cache", "depends", _KERNEL_PACKAGE))
    if depends is None:
        raise MigkitError(f"lab: apt knows no {_KERNEL_PACKAGE}: run apt-get update")
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        call("apt-get", "download", depends[1], timeout_s=300, cwd=temporary)
        package = next(Path(temporary).glob("*.deb"))
        call("dpkg-deb", "--extract", str(package), f"{temporary}/root", timeout_s=120)
        unpacked = next(Path(temporary, "root", "boot").glob("vmlinuz-*"))
        return Path(shutil.move(unpacked, folder / unpacked.name)).resolve()


def _initramfs(folder: Path) -> Path:
    """Compiled anew whenever the source differs."""
    source = SOURCE.read_bytes()
    path = folder / f"initramfs-{hashlib.sha256(source).hexdigest()[:12]}.cpio"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            program, part = Path(temporary, "init"), Path(temporary, "cpio")
            call("gcc", "-static", "-O2", "-s", "-o", str(program), str(SOURCE))
            part.write_bytes(_cpio([("dev", 0o040755, b""), ("init", 0o100755, program.read_bytes())]))
            part.replace(path)
    return path.resolve()


def _cpio(entries: list[tuple[str, int, bytes]]) -> bytes:
    """An archive in the kernel's format ("newc"); names, modes, contents."""
    out = b""
    for inode, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        out += _padded(b"070701" + b"".join(b"%08X" % f for f in fields) + name.encode() + b"\0")
        out += _padded(content)
    return out


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def _cpu() -> str:
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return model[1] if model else "unknown processor"

"""The shell loops with which people watch a migration, run beside one of the lab."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from migkit.lab.hosts import wait_until

if TYPE_CHECKING:
    from migkit.lab.hosts import Lab

LOOP = "while [ -e {flag} ]; do {date}; {command}; sleep 0.4; done >{output} 2>&1"
QUERY = '{"execute":"query-migrate"}'


@contextlib.contextmanager
def tools(lab: Lab, domain: str, folder: Path) -> Iterator[None]:
    """Polls the guest's migration with virsh, scaled and raw, and with QMP, while the block runs; then the final
    statistics on the destination. Files in `folder`: scaled.txt, raw.txt, qmp.txt, events.txt, completed.txt."""
    read_only = f"virsh --readonly --connect {shlex.quote(lab.a.read_only_uri)}"
    writing = f"virsh --connect {shlex.quote(lab.a.uri)}"
    loops = {
        "scaled.txt": ("LC_ALL=C date", f"{read_only} domjobinfo {domain}"),
        "raw.txt": ("date +%s.%N", f"{read_only} domjobinfo {domain} --rawstats"),
        "qmp.txt": ("date --iso-8601=ns", f"{writing} qemu-monitor-command {domain} {shlex.quote(QUERY)}"),
    }
    # The guest's process is there before its daemon knows it.
    state = [*shlex.split(read_only), "domstate", domain]
    assert wait_until(lambda: subprocess.run(state, capture_output=True, check=False).returncode == 0, 30)
    flag = folder / "flag"
    flag.touch()
    started = [
        _shell(
            LOOP.format(flag=shlex.quote(str(flag)), date=date, command=command, output=shlex.quote(str(folder / name)))
        )
        for name, (date, command) in loops.items()
    ]
    into = shlex.quote(str(folder / "events.txt"))
    listener = _shell(f"exec {writing} qemu-monitor-event {domain} --loop --timeout 300 >{into} 2>&1")
    try:
        yield
        far = f"virsh --connect {shlex.quote(lab.b.uri)} domjobinfo {domain} --completed --keep-completed"
        completed = subprocess.run(shlex.split(far), capture_output=True, text=True, check=False)
        (folder / "completed.txt").write_text(completed.stdout + completed.stderr)
    finally:
        flag.unlink()
        listener.terminate()
        for process in (*started, listener):
            process.wait(30)


def _shell(script: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["bash", "-c", script], stdin=subprocess.DEVNULL)

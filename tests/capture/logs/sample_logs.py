"""The sample logs of notebook 04: `python -m tests.capture.logs.sample_logs` writes data/logs.

Recorded migrations of data/traces as virt-launcher of KubeVirt v1.9, stall detection off, would have logged them:
a folder as somebody gets it who copies a month's launcher logs together, with the guests' objects beside them.
"""

from __future__ import annotations

import datetime
import gzip
import json
import uuid
from pathlib import Path

import migkit as mk
from tests.capture.logs import rendering

ROOT = Path(__file__).parents[3]
LOGS = ROOT / "data" / "logs"
FIRST = datetime.datetime(2026, 7, 1, 1, 30, tzinfo=datetime.UTC)

# Guest -> the recorded migrations that it lived through, in this order.
GUESTS: dict[str, tuple[str, ...]] = {
    "db-0": ("long-hot-set",),
    "db-1": ("long-near-critical-above",),
    "cache-0": ("long-phases-seconds", "converge-slow"),
    "ci-runner-3": ("nonconverging-long", "bursty"),
    "web-1": ("long-idle-2gib",),
    "web-2": ("converge-late",),
    "web-3": ("long-link-one-percent",),
    "web-4": ("link-limited",),
    "mail-0": ("long-destination-stopped",),
    "mail-1": ("long-drop-in-the-middle",),
    "build-5": ("auto-converge-gentle",),
    "desk-12": ("link-dead", "near-critical-random"),
    "desk-14": ("shrinking-working-set",),
    "desk-15": ("pair-large",),
}
FOREIGN = (
    {"level": "info", "msg": "kubevirt domain status: Running(1):Unknown(0)", "pos": "client.go:297"},
    {"level": "info", "msg": "Synced vmi", "pos": "server.go:207"},
    {"level": "error", "msg": "unable to execute QEMU agent command: QEMU guest agent is not connected",
     "pos": "qemuDomainAgentAvailable:8475", "subcomponent": "libvirt", "thread": "33"},
)  # fmt: skip


def main(folder: Path = LOGS) -> None:
    """Writes the folder anew."""
    folder.mkdir(exist_ok=True)
    for old in [*folder.glob("*.log*"), *folder.glob("*.yaml")]:
        old.unlink()
    objects = []
    for number, (guest, names) in enumerate(GUESTS.items()):
        traces = [mk.load(ROOT / "data" / "traces" / f"{name}.parquet") for name in names]
        objects.append(_object(guest, traces[-1]))
        _write(folder, guest, traces, FIRST + datetime.timedelta(days=2.1 * number))
    (folder / "vmis.yaml").write_text("---\n".join(objects))


def _uid(*words: object) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join(map(str, ("migkit", *words)))))


def _object(guest: str, trace: mk.Trace) -> str:
    memory = (trace.meta.domain.memory_bytes or 0) // rendering.MIB
    return (
        "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\n"
        f"metadata: {{name: {guest}, namespace: prod, uid: {_uid(guest)}}}\n"
        f"spec: {{domain: {{memory: {{guest: {memory}Mi}}}}}}\n"
    )


def _write(folder: Path, guest: str, traces: list[mk.Trace], begin: datetime.datetime) -> None:
    """One log of a launcher; of a guest with two migrations the older log was rotated away and compressed. A launcher
    ends with its migration, so that each has its own pod."""
    about = {**rendering.GUEST, "name": guest, "uid": _uid(guest)}
    for number, trace in enumerate(traces):
        lines = list(rendering.kubevirt(trace, "D", uid=_uid(guest, trace.name), guest=about))
        moved = [_moved(line, begin + datetime.timedelta(hours=31 * number)) for line in _between(lines, about)]
        pod = f"virt-launcher-{guest}-{_uid('pod', guest, number)[:5]}"
        text = ("\n".join(moved) + "\n").encode()
        if number + 1 < len(traces):
            (folder / f"{pod}.log.gz").write_bytes(gzip.compress(text, 9, mtime=0))
        else:
            (folder / f"{pod}.log").write_bytes(text)


def _between(lines: list[str], about: dict[str, str]) -> list[str]:
    """With lines of other kinds here and there."""
    found = []
    for number, line in enumerate(lines):
        found.append(line)
        if number % 9 == 0:
            stamp = json.loads(line)["timestamp"]
            said = {"component": "virt-launcher", "timestamp": stamp, **FOREIGN[number // 9 % len(FOREIGN)]}
            found.append(json.dumps(dict(sorted(said.items())), separators=(",", ":")))
    return found


def _moved(line: str, begin: datetime.datetime) -> str:
    said = json.loads(line)
    moment = datetime.datetime.fromisoformat(said["timestamp"])
    since = moment - datetime.datetime.fromtimestamp(rendering.START_NS / 1e9, datetime.UTC)
    said["timestamp"] = (begin + since).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return json.dumps(said, separators=(",", ":"))


if __name__ == "__main__":
    main()

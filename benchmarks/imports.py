"""How fast a launcher's log becomes traces, and in how much memory, beside reading it and parsing every line.

    python -m benchmarks.imports                 # 1 GiB, one line in a hundred of a monitor
    python -m benchmarks.imports --mib 100 --share 1.0    # nothing but a monitor's lines
    python -m benchmarks.imports --mib 50 --of bare       # messages alone, without times: each finds its migration
    python -m benchmarks.imports --mib 50 --of qmp        # one long migration, an event before every answer
    python -m benchmarks.imports --mib 50 --of prometheus # one answer, many guests

The log is a recorded migration as v1.2.1 would have logged it, over and over for new guests, between lines of other
kinds. Each measure is a process of its own on one core; the first one warms the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import migkit as mk
from migkit.capture.logs.formats import Importer
from migkit.units import MIB
from tests.capture.logs import rendering

FOREIGN = (
    '{"component":"virt-launcher","level":"info","msg":"kubevirt domain status: Running(1):Unknown(0)",'
    '"pos":"client.go:297","timestamp":"2024-05-06T10:11:10.123456Z"}',
    '{"component":"virt-launcher","level":"info","msg":"Domain name event: prod_web1","pos":"client.go:424",'
    '"timestamp":"2024-05-06T10:11:10.223456Z"}',
    '{"component":"virt-launcher","kind":"","level":"info","msg":"Synced vmi","name":"web1","namespace":"prod",'
    '"pos":"server.go:207","timestamp":"2024-05-06T10:11:10.323456Z","uid":"9f0f7a52-88b6-4c5b-8a63-6d5a6a0f4b11"}',
    '{"component":"virt-launcher","level":"error","msg":"unable to execute QEMU agent command: QEMU guest agent is not '
    'connected","pos":"qemuDomainAgentAvailable:8475","subcomponent":"libvirt","thread":"33",'
    '"timestamp":"2024-05-06T10:11:10.423000Z"}',
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--share", type=float, default=0.01, help="of the lines that are a monitor's")
    parser.add_argument("--of", choices=list(WRITERS), default="launcher")
    parser.add_argument("--only", choices=list(MEASURES), help=argparse.SUPPRESS)
    parser.add_argument("--log", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        return measured(arguments.only, Path(arguments.log))
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "current.log"
        launcher = arguments.of == "launcher"
        share = arguments.share if launcher else 1.0
        WRITERS[arguments.of](log, arguments.mib * MIB, share)
        size_mb = log.stat().st_size / 1e6
        print(f"{size_mb:.0f} MB of {arguments.of}, {share:.0%} of the lines are a monitor's")
        found = {name: child(name, log) for name in MEASURES if launcher or name != "json"}
    fastest = found["read"]["seconds"]
    for name, told in found.items():
        print(f"{MEASURES[name]:<34} {size_mb / told['seconds']:7.0f} MB/s   {told['seconds'] / fastest:6.1f} x reading"
              f"   peak {told['peak_mib']:5.0f} MiB   {told['said']}")  # fmt: skip
    return 0


MEASURES = {"read": "reading it in blocks", "json": "json.loads of every line", "import": "migkit import"}


def write(path: Path, size: int, share: float) -> None:
    """A log of `size` bytes: migrations of new guests, each line among foreign ones."""
    template = list(rendering.kubevirt(mk.sample("nonconverging-long"), "C"))
    foreign = random.Random(0)
    spread = round(1 / share) - 1
    with open(path, "w") as target:
        for number in range(10**9):
            if target.tell() >= size:
                return
            hour = f"T{number % 24:02d}:"
            for line in template:
                for other in foreign.choices(FOREIGN, k=spread):
                    target.write(other + "\n")
                target.write(renamed(line, number).replace("T10:", hour) + "\n")


def write_bare(path: Path, size: int, share: float) -> None:
    """The messages alone, one that is no sample behind each sample."""
    lines = [json.loads(line)["msg"] for line in rendering.kubevirt(mk.sample("nonconverging-long"), "C")]
    whole = "".join(f"{line}\nstall detected: remaining bytes did not fall\n" for line in lines)
    with open(path, "w") as target:
        while target.tell() < size:
            target.write(whole)


def write_qmp(path: Path, size: int, share: float) -> None:
    """Answers to query-migrate with growing figures, the event of a pass before each."""
    with open(path, "w") as target:
        for number in range(1, 10**9):
            if target.tell() >= size:
                return
            stamp = {"seconds": 1_700_000_000 + number, "microseconds": 0}
            event = {"event": "MIGRATION_PASS", "data": {"pass": number}, "timestamp": stamp}
            ram = {"transferred": number * MIB, "remaining": MIB, "total": 2 * MIB, "dirty-sync-count": number}
            answer = {"return": {"status": "active", "total-time": number * 1000, "ram": ram}}
            target.write(f"{json.dumps(event)}\n{json.dumps(answer)}\n")


def write_prometheus(path: Path, size: int, share: float) -> None:
    """A range query's answer: five metrics of 200 samples a guest."""
    metrics = ("data_remaining", "data_processed", "data_total", "dirty_memory_rate", "memory_transfer_rate")
    values = [[1_700_000_000 + 5 * number, str(10**9 + number * 1000)] for number in range(200)]
    with open(path, "w") as target:
        target.write('{"status": "success", "data": {"resultType": "matrix", "result": [')
        for guest in range(10**9):
            if target.tell() >= size:
                break
            for metric in metrics:
                labels = {"__name__": f"kubevirt_vmi_migration_{metric}_bytes", "name": f"web{guest}"}
                target.write(json.dumps({"metric": labels, "values": values}) + ", ")
        target.write("{}]}}\n")


WRITERS = {"launcher": write, "bare": write_bare, "qmp": write_qmp, "prometheus": write_prometheus}


def renamed(line: str, number: int) -> str:
    new = str(uuid.UUID(int=number + 2**100))
    return line.replace(rendering.UID, new).replace("web1", f"web{number}").replace(rendering.VMI_UID, new[::-1])


def child(name: str, log: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.imports", "--only", name, "--log", str(log)]
    told: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return told


def measured(name: str, log: Path) -> int:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if name == "read":
        sum(len(block) for block in read_blocks(log))
    begun = time.perf_counter()
    said = {"read": counted_bytes, "json": counted_json, "import": counted_traces}[name](log)
    seconds = time.perf_counter() - begun
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mib": peak_mib, "said": said}))
    return 0


def read_blocks(log: Path) -> Iterator[bytes]:
    with open(log, "rb") as stream:
        while block := stream.read(MIB):
            yield block


def counted_bytes(log: Path) -> str:
    return f"{sum(len(block) for block in read_blocks(log))} bytes"


def counted_json(log: Path) -> str:
    with open(log, "rb") as stream:
        return f"{sum('msg' in json.loads(line) for line in stream)} messages"


def counted_traces(log: Path) -> str:
    importer = Importer([log])
    rows, count = 0, 0
    for found in importer.imported():
        rows += len(found.rows)
        count += 1
    return f"{count} migrations, {rows} rows, {importer.skipped['foreign line']} foreign lines"


if __name__ == "__main__":
    sys.exit(main())

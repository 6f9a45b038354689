"""What it costs to watch a host on which many domains migrate at once, and whether anything is lost.

    python -m benchmarks.watch                            # 50 domains for 10 minutes at 100 ms between polls
    python -m benchmarks.watch --domains 10 --minutes 1

The domains are fake, in the watcher's own process; their calls take as long as libvirt's do on a busy host. What they
cost by themselves, asked as often by as many threads and nothing recorded, is measured first for a while. Lost: an
iteration of which no event row tells. Jitter: how far a poll begins from its place in the grid.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.recorder import at, jitter_ms
from migkit.capture.course import Plan
from migkit.capture.fake import FakeDomain
from migkit.capture.fake_host import LONGEST_MS, FakeHost
from migkit.capture.watch import watch
from migkit.parquet import read
from migkit.units import MIB

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / MIB
# They begin within this time, and so they end.
SPREAD_S = 5.0
REFERENCE_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is watched: so many domains, each migrating for so long, `speed` of their seconds in one of ours."""

    domains: int = 50
    seconds: float = 600.0
    interval_ms: float = 100.0
    speed: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was found in the traces."""

    outcomes: dict[str, int]
    events: int
    lost: int
    polls: int
    jitter_ms: tuple[float, float]
    latency_ms: tuple[float, float]
    unnoticed_ms: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--interval", type=float, default=100)
    parser.add_argument("-o", "--output", metavar="DIR", help="keep the traces")
    parser.add_argument("--inside", choices=("watch", "ask"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    size = Size(domains=arguments.domains, seconds=arguments.minutes * 60, interval_ms=arguments.interval)
    if arguments.inside == "watch":
        watched(size, Path(arguments.output))
        return 0
    if arguments.inside == "ask":
        asked(size, REFERENCE_S)
        return 0
    print(f"the fake domains by themselves  {_reference(size):.0%} of a core", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(arguments.output or folder)
        _observe([*_words(size), "--inside", "watch", "-o", str(output)])
        found = examined(size, output)
    for line in told(size, found):
        print(line)
    return int(found.lost > 0 or sum(found.outcomes.values()) != size.domains)


def _words(size: Size) -> list[str]:
    words = [sys.executable, "-m", "benchmarks.watch", "--domains", str(size.domains)]
    return [*words, "--minutes", str(size.seconds / 60), "--interval", str(size.interval_ms)]


def host(size: Size) -> FakeHost:
    """Domains that never converge; a third is cancelled, a third fails, a third goes to post-copy and completes."""
    domains = []
    for k in range(size.domains):
        start_ms, last_ms = 1000 + round(k * SPREAD_S * 1000 / size.domains), round(size.seconds * 1000)
        ends: dict[str, Any] = (
            {"mishap": "abort", "mishap_ms": last_ms}, {"mishap": "fail", "mishap_ms": last_ms},
            {"postcopy_ms": last_ms},
        )[k % 3]  # fmt: skip
        plan = Plan(start_ms=start_ms, dirty_bps=(64 + k) * MIB, working_set_bytes=(96 + k) * MIB, **ends)
        name = f"guest-{k + 1}"
        domains.append(FakeDomain(plan=plan, seed=k, name=name, speed=size.speed, longest_ms=LONGEST_MS))
    return FakeHost(domains, speed=size.speed)


def watched(size: Size, output: Path) -> None:
    """Watches until every migration has ended."""
    left = threading.Semaphore(0)
    stop = threading.Thread(target=lambda: [left.acquire() for _ in range(size.domains)] and os.kill(os.getpid(), 15))
    stop.daemon = True
    stop.start()
    watch(host(size), output=output, interval_ms=size.interval_ms, on_end=lambda _: left.release(),
          on_notice=lambda line: print(line, flush=True))  # fmt: skip


def asked(size: Size, seconds: float) -> None:
    """Asks the domains alone, as a watcher's threads would."""
    made, end_s = host(size), time.monotonic() + seconds

    def ask(uuid: str, name: str) -> None:
        source = made.source(uuid, name)
        while time.monotonic() < end_s:
            source.job_stats()
            time.sleep(size.interval_ms / 1000)

    made.subscribe(lambda *_: None)
    threads = [threading.Thread(target=ask, args=domain) for domain in made.running()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _reference(size: Size) -> float:
    """Processor time a second of the domains alone; the program's start, without them, is taken off."""
    process = subprocess.Popen([*_words(size), "--inside", "ask"])
    time.sleep(5)
    begin, cpu_s = time.monotonic(), _cpu_s(process.pid)
    time.sleep(REFERENCE_S - 7)
    share = (_cpu_s(process.pid) - cpu_s) / (time.monotonic() - begin)
    process.wait()
    return share


def _observe(words: list[str]) -> None:
    """A line a minute about the process."""
    process = subprocess.Popen(words)
    print("minute   CPU of a core   memory   threads", flush=True)
    minute, last = 0, (time.monotonic(), 0.0)
    while process.poll() is None:
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            minute += 1
            now = time.monotonic(), _cpu_s(process.pid)
            share = (now[1] - last[1]) / (now[0] - last[0])
            last = now
            resident = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * PAGE_MIB
            threads = len(os.listdir(f"/proc/{process.pid}/task"))
            print(f"{minute:6}   {share:13.1%}   {resident:.1f} MiB   {threads}", flush=True)
    if process.returncode:
        raise SystemExit(f"the watcher failed: exit code {process.returncode}")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def examined(size: Size, output: Path) -> Figures:
    """Looks through the traces."""
    courses = {domain.name: domain.course for domain in host(size).domains}
    outcomes: dict[str, int] = {}
    jitter, latency, unnoticed = [], [], []
    events = lost = polls = 0
    for path in sorted(output.glob("*.parquet")):
        table, meta = read(path)
        rows = table.to_pylist()
        outcomes[meta.end.outcome] = outcomes.get(meta.end.outcome, 0) + 1
        seen = {row["event_iteration"] for row in rows if row["source"] == "iteration"}
        expected = set(range(1, max(leg.iteration for leg in courses[meta.domain.name].legs) + 1))
        events, lost = events + len(seen), lost + len(expected - seen)
        begun = [row for row in rows if row["source"] == "poll" and row["latency_us"] is not None]
        polls += len(begun)
        jitter += jitter_ms(begun[1:], size.interval_ms)
        latency += [row["latency_us"] / 1000 for row in begun]
        unnoticed.append(next(row["time_elapsed_ms"] for row in rows if row["job_type"] == 2))
    jitter.sort()
    latency.sort()
    return Figures(
        outcomes=outcomes, events=events, lost=lost, polls=polls, jitter_ms=(at(jitter, 0.5), at(jitter, 0.99)),
        latency_ms=(at(latency, 0.5), at(latency, 0.99)), unnoticed_ms=max(unnoticed),
    )  # fmt: skip


def told(size: Size, found: Figures) -> Iterator[str]:
    """The figures as lines."""
    yield f"traces                {json.dumps(found.outcomes)} of {size.domains} migrations"
    yield f"iteration events      {found.events}, lost {found.lost}"
    yield f"polls                 {found.polls}"
    yield f"call latency          p50 {found.latency_ms[0]:.1f} ms, p99 {found.latency_ms[1]:.0f} ms"
    yield f"sampling jitter       p50 {found.jitter_ms[0]:.2f} ms, p99 {found.jitter_ms[1]:.2f} ms"
    yield f"unnoticed at most     {found.unnoticed_ms:.0f} ms"


if __name__ == "__main__":
    sys.exit(main())

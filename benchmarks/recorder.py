"""What recording costs and how regular it is, at 100 ms between polls and a sample at every iteration event.

    python -m benchmarks.recorder                              # over a fake domain that converges
    python -m benchmarks.recorder -c URI DOMAIN                # over the next real migration of a guest

CPU: the recorder's process, from the first row to the last. Jitter: how far a poll begins from its place in the grid.
Missed: iterations between the first and the last seen that no event row tells of.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.kills import wait_for_rows
from migkit.capture.journal import journal_path
from migkit.parquet import read

FAKE = "fake:///nonconverging?start_ms=1000"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("domain", nargs="?", default="guest")
    parser.add_argument("-c", "--connect", metavar="URI", default=FAKE)
    parser.add_argument("--interval", type=float, default=100)
    parser.add_argument("--seconds", type=float, default=30, help="how long, at most")
    parser.add_argument("-o", "--output", metavar="FILE", help="keep the trace")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(arguments.output or Path(folder) / "a.parquet")
        words = ["record", arguments.domain, "-c", arguments.connect, "-o", str(output), "--force"]
        cpu_s, wall_s, journal_bytes = _observe(
            [*words, "--interval", str(arguments.interval)], output, arguments.seconds
        )
        rows = read(output)[0].to_pylist()
        for line in report(rows, arguments.interval):
            print(line)
        print(f"CPU of one core       {cpu_s / wall_s:.2%} ({cpu_s:.2f} s in {wall_s:.1f} s)")
        sizes = journal_bytes / len(rows), output.stat().st_size / len(rows)
        print(f"bytes a row           journal {sizes[0]:.0f}, Parquet {sizes[1]:.1f} with its footer")


def _observe(words: Sequence[str], output: Path, seconds: float) -> tuple[float, float, int]:
    """CPU seconds and wall seconds while rows came, and the journal's size at the end of that."""
    process = subprocess.Popen([sys.executable, "-m", "migkit", *words], stderr=subprocess.DEVNULL)
    path = journal_path(output)
    wait_for_rows(process, path)
    begin, cpu_begin, size = time.monotonic(), _cpu_s(process.pid), 0
    cpu_s, wall_s = 0.0, 1e-9
    while process.poll() is None and path.exists() and wall_s < seconds:
        try:
            # Only while it grows: then the migration runs, and nothing is being compacted.
            if path.stat().st_size > size:
                size = path.stat().st_size
                cpu_s, wall_s = _cpu_s(process.pid) - cpu_begin, time.monotonic() - begin
        except (FileNotFoundError, ProcessLookupError):
            break
        time.sleep(0.05)
    if process.poll() is None:
        process.terminate()
    process.wait()
    return cpu_s, wall_s, size


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def report(rows: list[Row], interval_ms: float) -> Iterator[str]:
    """Jitter, latency and completeness of a recording."""
    polls = [row for row in rows if row["source"] == "poll" and row["latency_us"] is not None]
    off = jitter_ms(polls, interval_ms)
    latencies = sorted(row["latency_us"] / 1000 for row in polls)
    iterations = [row["event_iteration"] for row in rows if row["source"] == "iteration"]
    lags = sorted(row["event_lag_us"] / 1000 for row in rows if row["event_lag_us"] is not None)
    missed = set(range(min(iterations), max(iterations) + 1)) - set(iterations) if iterations else set()
    yield f"rows                  {len(rows)}, {len(polls)} polls, {len(iterations)} iteration events"
    yield f"call latency          p50 {at(latencies, 0.5):.2f} ms, p99 {at(latencies, 0.99):.2f} ms"
    yield f"sampling jitter       p50 {at(off, 0.5):.2f} ms, p99 {at(off, 0.99):.2f} ms"
    if iterations:
        yield f"event to sample       p50 {at(lags, 0.5):.2f} ms, p99 {at(lags, 0.99):.2f} ms"
        yield f"missed iterations     {len(missed)} of {max(iterations) - min(iterations) + 1}"


def jitter_ms(polls: list[Row], interval_ms: float) -> list[float]:
    """How far each poll begins from its place in the grid, sorted."""
    begins = [row["mono_ns"] / 1e6 - row["latency_us"] / 1e3 for row in polls]
    # The grid's phase is not stored: the median of the phases seen stands for it.
    middle = statistics.median((begin - begins[0] + interval_ms / 2) % interval_ms for begin in begins)
    return sorted(abs((begin - begins[0] + interval_ms / 2) % interval_ms - middle) for begin in begins)


def at(values: list[float], quantile: float) -> float:
    """A quantile of sorted values."""
    return values[min(len(values) - 1, int(quantile * len(values)))]


if __name__ == "__main__":
    main()

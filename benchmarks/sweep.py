"""Sweeps at size: how long, how much memory, how cost grows, what a Dask cluster adds, how fast a slider answers.

    python -m benchmarks.sweep                        # 10 000 traces x 1000 settings and less
    python -m benchmarks.sweep --traces 1000          # at the most so many
    python -m benchmarks.sweep --slider               # the sliders alone

The traces are perturbed copies of data/traces (marked simulated), packed, in a temporary folder. A sweep runs in a
process of its own, whose peak of memory is its own; the figures count its start, too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import migkit as mk
from benchmarks.datasets import _write

TRACES = (100, 1000, 10_000)
SETTINGS = (10, 100, 1000, 10_000)
# Knobs of the stall detector; a draw of them.
LISTS = {
    "stall_margin": range(1, 21), "stall_progress_timeout": range(5, 205, 5), "ewma_alpha": ["0.2", "0.4", "0.6"],
    "completion_timeout_per_gib": range(50, 850, 50), "max_downtime_ms": range(300, 2300, 200),
}  # fmt: skip
POLICIES = {"stall": "kubevirt-1.9-stall", "deadlines": "kubevirt-1.8"}
DEADLINES = {"progress_timeout": range(5, 205), "completion_timeout_per_gib": range(10, 810, 10)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=int, default=max(TRACES), help="at the most so many")
    parser.add_argument("--folder", metavar="DIR", help="where the traces are written for the time being")
    parser.add_argument("--slider", action="store_true", help="the sliders alone")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        _one(*arguments.one)
        return
    print(f"{_processor()}, {os.cpu_count()} processors, Python {platform.python_version()}")
    for line in _slider():
        print(line, flush=True)
    if arguments.slider:
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as made:
        for line in _sizes(Path(made), arguments.traces):
            print(line, flush=True)


def _sizes(folder: Path, most: int) -> Iterator[str]:
    counts = [count for count in TRACES if count <= most]
    packed = {}
    for count in counts:
        _write(folder / f"files-{count}", count)
        packed[count] = mk.open_dataset(folder / f"files-{count}").pack(folder / f"packed-{count}")
    yield "how cost grows, 1000 settings"
    for kind in POLICIES:
        for count in counts:
            yield _line(f"{kind}, {count} traces", _apart(packed[count], kind, 1000), count * 1000)
    middle = counts[min(1, len(counts) - 1)]
    yield f"how cost grows, {middle} traces"
    for kind in POLICIES:
        for settings in SETTINGS:
            yield _line(f"{kind}, {settings} settings", _apart(packed[middle], kind, settings), middle * settings)
    yield from _dask(packed[middle])


def _apart(packed: Path, kind: str, settings: int) -> dict[str, float]:
    words = [sys.executable, "-m", "benchmarks.sweep", "--one", str(packed), kind, str(settings)]
    return dict(json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout))


def _one(packed: str, kind: str, settings: str) -> None:
    """One sweep: its figures as JSON."""
    begun, cpu = time.perf_counter(), time.process_time()
    found = mk.sweep(packed, mk.policy(POLICIES[kind]), sample=int(settings), large=True, skip_bad=True,
                     **(LISTS if kind == "stall" else DEADLINES))  # fmt: skip
    figures = {"wall_s": time.perf_counter() - begun, "cpu_s": time.process_time() - cpu, "rows": len(found.table)}
    mk.stats.by_setting(found)
    figures["by_setting_s"] = time.perf_counter() - begun - figures["wall_s"]
    figures["peak_mib"] = _peak_mib()
    print(json.dumps(figures))


def _line(what: str, figures: dict[str, float], replays: int) -> str:
    wall_s, cpu_s, peak_mib = figures["wall_s"], figures["cpu_s"], figures["peak_mib"]
    rate = replays / wall_s / 1000
    return (f"  {what:<24} {wall_s:7.2f} s wall {cpu_s:7.2f} s CPU {peak_mib:6.0f} MiB peak {rate:8.0f} k replays/s; "
            f"by_setting {figures['by_setting_s']:.2f} s")  # fmt: skip


def _dask(packed: Path, rounds: int = 3) -> Iterator[str]:
    """One share after another, threads, processes and a Dask cluster of as many workers, in turn."""
    try:
        from dask.distributed import Client, LocalCluster
    except ImportError:
        yield "Dask: not installed"
        return
    policy, workers = mk.policy(POLICIES["stall"]), os.cpu_count() or 1
    times: dict[str, list[float]] = {name: [] for name in ("one by one", "threads", "processes", "dask")}
    with (LocalCluster(workers, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster,
          Client(cluster) as client):  # fmt: skip
        executors = {
            "one by one": None, "threads": ThreadPoolExecutor(workers), "processes": ProcessPoolExecutor(workers),
            "dask": client.get_executor(pure=False),
        }  # fmt: skip
        for number in range(rounds + 1):
            for name, executor in executors.items():
                begun = time.perf_counter()
                mk.sweep(packed, policy, sample=1000, skip_bad=True, executor=executor, **LISTS)
                if number:  # the first round compiles, and starts the workers
                    times[name].append(time.perf_counter() - begun)
    alone = statistics.median(times["one by one"])
    yield f"beyond one processor, {workers} workers (medians of {rounds} rounds in turn)"
    for name, seconds in times.items():
        gain = alone / statistics.median(seconds)
        yield f"  {name:<12} {statistics.median(seconds):6.2f} s   x{gain:.2f}, {gain / workers * 100:.0f} % a worker"


def _slider() -> Iterator[str]:
    """From a moved slider to the new picture."""
    from migkit.plot.explore import drawing

    traces = list(mk.open_dataset("data/traces").where("duration >= 10 s"))
    for count in (1, 30):
        draw = drawing(traces[:count], mk.policy(POLICIES["stall"]))
        draw({"stall_progress_timeout": 5})
        times = []
        for value in range(10, 110, 5):
            begun = time.perf_counter()
            draw({"stall_progress_timeout": value})
            times.append((time.perf_counter() - begun) * 1000)
        yield f"slider over {count:2} traces: median {statistics.median(times):.0f} ms, slowest {max(times):.0f} ms"


def _peak_mib() -> float:
    """The most memory that this process ever had; the kernel's own count, without that of its parent."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "a processor"


if __name__ == "__main__":
    main()

"""How long a user waits before anything happens, beside a bare Python that does nothing.

    python -m benchmarks.startup

Each is started in turn, round after round, so that all meet the same load; medians of the rounds and their ratios.
`record` counts from the start of the process to its first sample, by the sample's own clock.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.kills import wait_for_rows
from migkit.capture import journal

TRACE = Path(__file__).parents[1] / "data" / "traces" / "stall_link.parquet"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=15, help="rounds")
    rounds = parser.parse_args().n
    measured: dict[str, Callable[[], float]] = {
        "python -c pass": lambda: _run("-c", "pass"),
        "import migkit": lambda: _run("-c", "import migkit"),
        "migkit --help": lambda: _run("-m", "migkit", "--help"),
        "migkit record, first sample": _first_sample,
        "migkit info, one trace": lambda: _run("-m", "migkit", "info", str(TRACE)),
        "import pandas": lambda: _run("-c", "import pandas"),
    }
    times: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(rounds):
        for name, measure in measured.items():
            times[name].append(measure())
    bare = statistics.median(times["python -c pass"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:28} {median:6.0f} ms   {median / bare:5.1f} x bare Python   (largest {max(values):.0f} ms)")


def _run(*words: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - begin) * 1000


def _first_sample() -> float:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "a.parquet"
        words = ["-m", "migkit", "record", "guest", "-c", "fake:///nonconverging", "-o", str(output)]
        begin_ns = time.monotonic_ns()
        process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for_rows(process, journal.journal_path(output))
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        first = journal.read(journal.journal_path(output)).rows[0]
        return float(first["mono_ns"] - begin_ns) / 1e6


if __name__ == "__main__":
    main()

"""Kills recorders at random moments and looks at what is left: unreadable files, wrong rows, the largest loss.

    python -m benchmarks.kills                       # 200 recorders over a fake domain
    python -m benchmarks.kills -n 10 -c URI DOMAIN   # over a real migration that is running or about to

The loss is the time from the last recovered row to the kill: at 100 ms between polls about 0.1 s is none at all.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migkit.capture import journal
from migkit.capture.fake import FakeDomain
from migkit.capture.frames import MAGIC
from migkit.capture.stats_row import row_from_stats
from migkit.errors import MigkitError
from migkit.parquet import read

SCENARIO = "nonconverging"
START_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """What one killed recorder left: rows recovered, rows that differ from what was served, ms lost, or the error."""

    rows: int = 0
    wrong: int = 0
    loss_ms: float = 0.0
    error: str = ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("domain", nargs="?", help="a real guest (default: a fake one)")
    parser.add_argument("-c", "--connect", metavar="URI", help="its libvirt")
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=6)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.at_once) as pool:
        jobs = [
            pool.submit(kill_one, Path(folder), arguments.seed + k, domain=arguments.domain, uri=arguments.connect)
            for k in range(arguments.n)
        ]
        kills = [job.result() for job in jobs]
    for line in tallies(kills):
        print(line)
    return int(any(k.error or k.wrong or k.loss_ms > 1000 for k in kills))


def kill_one(folder: Path, seed: int, *, domain: str | None = None, uri: str | None = None) -> Kill:
    """Starts a recorder, kills it at a random moment after its first row, recovers the journal and checks it."""
    output = folder / f"{seed}.parquet"
    fake = f"fake:///{SCENARIO}?seed={seed}"
    words = [sys.executable, "-m", "migkit", "record", domain or "guest", "-c", uri or fake, "-o", str(output)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_rows(process, journal.journal_path(output))
        time.sleep(random.Random(seed).uniform(0, 1.5))
    finally:
        killed_ns = time.monotonic_ns()
        process.send_signal(signal.SIGKILL)
        process.wait()
    try:
        recovered = journal.recover(journal.journal_path(output))
    except MigkitError as error:
        return Kill(error=str(error))
    return _checked(recovered.path, killed_ns, None if domain else FakeDomain(SCENARIO, seed=seed))


def wait_for_rows(process: subprocess.Popen[Any], path: Path) -> None:
    """Until the journal holds a row."""
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end and process.poll() is None:
        try:
            if MAGIC + b"R" in path.read_bytes():
                return
        except FileNotFoundError:
            pass
        time.sleep(0.005)
    raise RuntimeError("the recorder did not begin")


def _checked(path: Path, killed_ns: int, domain: FakeDomain | None) -> Kill:
    rows = read(path)[0].to_pylist()
    wrong = sum(_differs(row, domain) for row in rows) if domain else 0
    return Kill(rows=len(rows), wrong=wrong, loss_ms=(killed_ns - rows[-1]["mono_ns"]) / 1e6)


def _differs(row: dict[str, object], domain: FakeDomain) -> bool:
    """Whether a row's stats are not what the domain serves at that moment."""
    if row["time_elapsed_ms"] is None:
        return row["job_type"] is not None
    served = row_from_stats(domain.answer(int(str(row["time_elapsed_ms"]))))
    return any(row[name] != value for name, value in served.items())


def tallies(kills: list[Kill]) -> Iterator[str]:
    """The figures of all kills."""
    errors = [kill.error for kill in kills if kill.error]
    losses = sorted(kill.loss_ms for kill in kills if not kill.error)
    yield f"recorders killed      {len(kills)}"
    yield f"unreadable files      {len(errors)}" + (f" ({errors[0]})" if errors else "")
    yield f"rows recovered        {sum(kill.rows for kill in kills)}"
    yield f"rows not as served    {sum(kill.wrong for kill in kills)}"
    if losses:
        yield f"loss median, largest  {losses[len(losses) // 2]:.0f} ms, {losses[-1]:.0f} ms"


if __name__ == "__main__":
    sys.exit(main())

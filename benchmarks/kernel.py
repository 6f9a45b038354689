"""The compiled rules against the same rules in plain Python, and the shortcuts against the compiled rules.

    python -m benchmarks.kernel                 # a made-up migration of 2000 wakes, 1000 settings
    python -m benchmarks.kernel TRACE.parquet   # over a real one

Every round measures all of them in turn, in CPU time of one thread; medians of the rounds. Plain Python gets every
50th setting. A wake counts when it was reached: settings stop at their first action.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np

import migkit as mk
from migkit.drivers.first import Settings, firsts, prepare, settings
from migkit.meta import Domain, End, TraceMeta
from migkit.policies.base import NS_PER_S, Options

COUNT = 1000
PLAIN_EVERY = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", nargs="?", help="a real trace (default: a made-up one)")
    parser.add_argument("-n", type=int, default=9, help="rounds")
    arguments = parser.parse_args()
    trace = mk.load(arguments.trace) if arguments.trace else made_up(2000)
    print(machine())
    print(f"{len(trace.samples)} rows over {trace.t_s[-1]:.0f} s, {COUNT} settings, {arguments.n} rounds")
    print(f"{'':20}{'plain':>12}{'compiled':>12}{'ratio':>8}{'shortcut':>14}{'ratio':>8}{'wakes':>8}")
    for label, policy, options in workloads():
        print(line(trace, label, policy, settings(options), arguments.n))


def machine() -> str:
    """What this runs on."""
    names = [row.split(":")[1].strip() for row in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in row]
    versions = f"Python {platform.python_version()}, numba {numba.__version__}, numpy {np.__version__}"
    return f"{len(names)} cores of {names[0] if names else platform.machine()}; {versions}"


def made_up(wakes: int, seed: int = 0) -> mk.Trace:
    """A migration that falls to a plateau and stays there, sampled at polls and at the end of its iterations: about
    `wakes` wake-ups of a monitor, one in four of them by an event."""
    rng, rows = np.random.default_rng(seed), []
    t_ms, iteration = 0, 0
    while len(rows) < wakes:
        t_ms, event = t_ms + int(rng.choice([400, 400, 400, 150])), rng.random() < 0.26
        iteration += event
        remaining = int(4e9 * max(0.1, 0.97**iteration) * rng.uniform(0.9, 1.1))
        rows.append(
            {"mono_ns": t_ms * 10**6, "wall_ns": 0, "latency_us": 100, "job_type": 2, "time_elapsed_ms": t_ms,
             "source": "iteration" if event else "poll", "event_iteration": iteration if event else None,
             "data_remaining_bytes": remaining, "memory_iteration": iteration,
             "memory_bps": int(rng.uniform(0.8, 1.2) * 1e9)}
        )  # fmt: skip
    return mk.Trace.from_rows(rows, TraceMeta(domain=Domain(memory_bytes=4 * 10**9), end=End(outcome="cancelled")))


def workloads() -> list[tuple[str, mk.Policy, Options]]:
    """Settings by the hundreds: within what KubeVirt admits, drawn at random, and as a grid."""
    rng = np.random.default_rng(1)
    draw = lambda low, high: rng.integers(low, high, COUNT)  # noqa: E731
    deadlines: dict[str, Any] = {
        "acceptable_s": draw(60, 900), "progress_timeout_s": draw(5, 150), "allow_post_copy": draw(0, 2) == 1,
        "allow_workload_disruption": draw(0, 2) == 1,
    }  # fmt: skip
    tuning: dict[str, Any] = {
        "max_downtime_ms": draw(300, 2000), "tuning_initial_ms": draw(50, 300), "tuning_steps": draw(1, 20),
        "tuning_start_after": draw(1, 10), "tuning_cooldown_ns": draw(1, 30) * NS_PER_S,
    }  # fmt: skip
    stall: dict[str, Any] = {
        "margin": draw(0, 30) / 100, "window_ms": draw(5, 120) * 1000, "switchover_s": draw(10, 120),
        "alpha": draw(1, 1001) / 1000, "precopy_factor": draw(1000, 3000) / 1000, "decay": draw(0, 1001) / 1000,
        "max_downtime_ms": draw(100, 2000), "search_minima": draw(0, 2) == 1, "completion_factor": draw(10, 30) / 10,
    }  # fmt: skip
    knobs = ("margin", "window_ms", "alpha", "max_downtime_ms", "search_minima")
    values = [[0.02, 0.04, 0.08, 0.16, 0.3], [10_000, 20_000, 40_000, 60_000, 120_000], [0.2, 0.4, 0.6, 0.8],
              [300, 500, 900, 1500, 3000], [False, True]]  # fmt: skip
    grid = dict(zip(knobs, map(np.array, zip(*itertools.product(*values), strict=True)), strict=True))
    base = {name: _options(name) for name in ("1.8", "main", "main-tuning", "main-stall")}
    late = {"acceptable_s": 3000}
    return [
        ("polling", *base["1.8"](deadlines)),
        ("deadlines", *base["main"](deadlines)),
        ("tuning", *base["main-tuning"](deadlines | tuning)),
        ("stall, random", *base["main-stall"](deadlines | stall)),
        ("stall, grid", *base["main-stall"](late | grid)),
    ]


def _options(name: str) -> Callable[[dict[str, Any]], tuple[mk.Policy, Options]]:
    policy = mk.policy(f"kubevirt-{name}")
    plain = policy.computed(data_size_gb=4, has_vfio=False)
    return lambda changes: (policy, plain._replace(**changes))


def line(trace: mk.Trace, label: str, policy: mk.Policy, chosen: Settings, rounds: int) -> str:
    """One workload's medians, the answers compared on the way."""
    prepared, rules = prepare(trace, events=policy.hears_iterations), policy.family.rules
    few = settings(Options(*(column[::PLAIN_EVERY] for column in chosen.columns)))
    found = firsts(prepared, rules, chosen, method="advance")
    assert all((a == b).all() for a, b in zip(found, firsts(prepared, rules, chosen), strict=True))
    measured = {
        "plain": lambda: firsts(prepared, rules, few, method="plain"),
        "compiled": lambda: firsts(prepared, rules, chosen, method="advance"),
        "shortcut": lambda: firsts(prepared, rules, chosen),
    }
    times: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(rounds):
        for name, run in measured.items():
            times[name].append(cpu_s(run))
    count = len(prepared.limit_ms)
    reached = np.where(found.wake >= 0, found.wake + 1, count)
    plain, fast, short = (statistics.median(times[name]) for name in measured)
    plain_ns, fast_ns = plain / reached[::PLAIN_EVERY].sum() * 1e9, fast / reached.sum() * 1e9
    return (f"{label:20}{plain_ns:9.0f} ns{fast_ns:9.1f} ns{plain_ns / fast_ns:7.0f}x{short / COUNT * 1e6:11.3f} us"
            f"{fast / short:7.1f}x{reached.mean():8.0f}")  # fmt: skip


def cpu_s(run: Callable[[], object], times: int = 3) -> float:
    """CPU seconds of one run, the least of a few."""
    found = []
    for _ in range(times):
        begin = time.thread_time()
        run()
        found.append(time.thread_time() - begin)
    return min(found)


if __name__ == "__main__":
    main()

"""Sweep throughput beside vectorbt: as many samples, as many settings, one thread.

    pip install 'migkit[bench]'
    python -m benchmarks.vectorbt

vectorbt runs a simple threshold strategy over a price (`Portfolio.from_signals`, warm), migkit one monitor's rules
over a migration. The work differs - the one keeps orders, cash and equity, the other a monitor's state - so this
compares how many settings get through, not two engines. "to the end" are settings that never act, so that every
sample is looked at, as in vectorbt; the others are drawn at random and stop at their first action.
Every round measures all in turn, in CPU time; medians of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import vectorbt

from benchmarks.kernel import COUNT, cpu_s, machine, made_up, workloads
from migkit.drivers.first import firsts, prepare, settings
from migkit.policies.base import Options

# So many rows make 2000 wakes of the stall rules.
ROWS = 2170
NEVER = {"acceptable_s": 10**9, "progress_timeout_s": 10**9, "window_ms": 10**12, "max_downtime_ms": 300}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=7, help="rounds")
    rounds = parser.parse_args().n
    print(f"{machine()}, vectorbt {vectorbt.__version__}")
    runs, samples = migkit_runs()
    measured = {"vectorbt from_signals": vectorbt_run(samples)} | runs
    times: dict[str, list[float]] = {name: [] for name in measured}
    for run in measured.values():
        run()
    for _ in range(rounds):
        for name, run in measured.items():
            times[name].append(cpu_s(run, 1))
    peer = statistics.median(times["vectorbt from_signals"])
    print(f"{samples} samples x {COUNT} settings, {rounds} rounds: settings a second, and over vectorbt")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:34}{COUNT / median:12,.0f} /s{peer / median:10,.1f}x")


def vectorbt_run(samples: int) -> Callable[[], object]:
    """Bought below a threshold, sold 5 % above it; a threshold a setting."""
    rng = np.random.default_rng(0)
    price = pd.Series(100 * np.exp(np.cumsum(rng.normal(0, 0.01, samples))))
    thresholds = np.linspace(price.min(), price.max(), COUNT)
    below, above = (price.to_numpy()[:, None] < thresholds), (price.to_numpy()[:, None] > thresholds * 1.05)

    def run() -> object:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return vectorbt.Portfolio.from_signals(price, below, above)

    return run


def migkit_runs() -> tuple[dict[str, Callable[[], object]], int]:
    """What is measured of migkit by name, and how many wakes the stall rules see."""
    trace, found, samples = made_up(ROWS), {}, 0
    for label, policy, options in workloads():
        if label not in ("polling", "stall, random"):
            continue
        rules, prepared = policy.family.rules, prepare(trace, events=policy.hears_iterations)
        samples = len(prepared.limit_ms)
        known = {name: value for name, value in NEVER.items() if label != "polling" or name != "max_downtime_ms"}
        chosen, never = settings(options), settings(_never(options, known))
        for name, which, method in (
            ("rules, to the end", never, "advance"), ("rules", chosen, "advance"), ("shortcut", chosen, "shortcut"),
        ):  # fmt: skip
            found[f"{label}: {name}"] = lambda p=prepared, r=rules, w=which, m=method: firsts(p, r, w, method=m)
        assert (firsts(prepared, rules, never).wake == -1).all()
    return found, samples


def _never(options: Options, known: dict[str, int]) -> Options:
    return options._replace(**{name: np.full(COUNT, value) for name, value in known.items()})


if __name__ == "__main__":
    main()

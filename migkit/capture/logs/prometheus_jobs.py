"""A guest's migrations as Prometheus' metrics have them, and which of the starts, ends and outcomes told are theirs."""

from __future__ import annotations

import statistics as numbers
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest
from typing import Any

SAMPLED_MS = 5000
# Samples further apart are of two migrations.
APART_MS = 120_000
# What KubeVirt calls a migration whose object is gone.
_NO_NAME = "<none>"
Points = dict[int, int]


@dataclass(slots=True)
class Samples:
    """The samples of a series, times in ms. An answer has millions of them, and as objects they need ten times as much
    memory; `skipped`, reason -> samples that are none."""

    moments: array[int] = field(default_factory=lambda: array("q"))
    values: array[int] = field(default_factory=lambda: array("q"))
    skipped: Counter[str] = field(default_factory=Counter)

    def add(self, pair: Any) -> None:
        """Takes a time in s and a value, as numbers or as text, if it is a finite number at a time that can be."""
        try:
            moment, value = float(pair[0]), float(pair[1])
        except (TypeError, ValueError, LookupError, OverflowError):
            self.skipped["sample of an unknown form"] += 1
            return
        if not 0 < moment < 2**33 or not 0 <= value < 2**62:
            self.skipped["sample without a number"] += 1
            return
        self.moments.append(round(moment * 1000))
        self.values.append(round(value))

    def points(self) -> Points:
        """Value by time."""
        return dict(zip(self.moments, self.values, strict=True))


@dataclass(slots=True)
class Guest:
    """Series by column; `columns`, values by column and time in ms, once all series are read."""

    namespace: str
    name: str
    node: str
    series: dict[str, list[Samples]] = field(default_factory=dict)
    columns: dict[str, Points] = field(default_factory=dict)
    new_names: bool = False

    def merge(self, skipped: Counter[str]) -> None:
        """Fills the columns out of the series, the first value of a time being kept."""
        for name, several in self.series.items():
            column = self.columns.setdefault(name, {})
            for samples in several:
                points = samples.points()
                again = len(column.keys() & points.keys())
                if again:
                    skipped["sample of the same time again"] += again
                column.update({moment: value for moment, value in points.items() if moment not in column})


@dataclass(slots=True)
class Times:
    """Of a guest's migrations, each with its name where that is told: starts (in s), ends (in s, and how), and outcomes
    without a time (succeeded or failed) with the times in ms at which they were seen."""

    starts: set[tuple[int, str]] = field(default_factory=set)
    ends: set[tuple[int, str, str]] = field(default_factory=set)
    outcomes: dict[tuple[str, str], set[int]] = field(default_factory=dict)


@dataclass(slots=True)
class Job:
    """One migration: the times of its samples in ms, `kept` those that are no repetitions; its start and its end."""

    guest: Guest
    moments: list[int]
    kept: list[int] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    said: list[str] = field(default_factory=list)
    start_s: int | None = None
    status: str = ""

    @property
    def near_ms(self) -> float:
        """How far from its samples its start and its end may be, by how often it was sampled."""
        return max(APART_MS, 3 * interval_ms(self.kept))


def add_times(known: Times, metric: str, labels: Mapping[str, str], points: Points) -> None:
    name = labels.get("migration_name") or labels.get("vmim", "")
    name = "" if name == _NO_NAME else name
    if metric == "start_time_seconds":
        known.starts |= {(value, name) for value in points.values()}
    elif metric == "end_time_seconds":
        known.ends |= {(value, labels.get("status", ""), name) for value in points.values()}
    elif metric in ("succeeded", "failed") and any(points.values()):
        seen = {moment for moment, value in points.items() if value}
        known.outcomes.setdefault((metric, name), set()).update(seen)


def fit(known: Times, jobs: Sequence[Job], skipped: Counter[str]) -> None:
    """Gives a guest's migrations the starts and ends that fit their samples; counts those that fit none."""
    before_ms, ended_s = 0, [end[0] for end in known.ends]
    for job, following in zip_longest(jobs, jobs[1:]):
        name = _fit_start(known, job, before_ms, max((s for s in ended_s if s * 1000 <= job.kept[0]), default=0))
        until_ms = job.moments[-1] + job.near_ms
        if following is not None:
            until_ms = min(until_ms, following.kept[0])
        _fit_end(known, job, name, until_ms)
        before_ms = job.kept[-1]
    for metric, left in (("start", known.starts), ("end", known.ends), ("outcome", known.outcomes)):
        if left:
            skipped[f"{metric} of a migration none of whose samples are near"] += len(left)


def _fit_start(known: Times, job: Job, before_ms: int, ended_s: int) -> str:
    """Takes the last start before the first sample, if no migration ended between them; it lies as far back as samples
    are apart, or as sending what had been sent takes. Returns the migration's name, where that is told."""
    first_ms = job.kept[0]
    earliest_ms = max(before_ms, first_ms - job.near_ms - 2 * _sent_ms(job.guest, first_ms))
    fitting = [
        start for start in known.starts if earliest_ms < start[0] * 1000 <= first_ms + 1000 and start[0] >= ended_s
    ]
    if not fitting:
        return ""
    job.start_s, name = max(fitting)
    known.starts -= {start for start in known.starts if start[0] == job.start_s}
    return name


def _sent_ms(guest: Guest, moment: int) -> float:
    """How long it takes to send what had been sent at a time, as fast as was sent then."""
    sent_bytes = guest.columns.get("data_processed_bytes", {}).get(moment, 0)
    rates = [guest.columns.get(name, {}).get(moment, 0) for name in ("memory_rate", "disk_rate")]
    return sent_bytes / max(rates) * 1000 if max(rates) else 0.0


def _fit_end(known: Times, job: Job, name: str, until_ms: float) -> None:
    """Takes how it ended by the first end after its last sample; by succeeded or failed where one alone came up."""
    since_ms = job.kept[-1] - SAMPLED_MS
    ends = sorted(end for end in known.ends if since_ms <= end[0] * 1000 <= until_ms and _of_one(end[2], name))
    first = [end for end in ends if end[0] == ends[0][0]]
    known.ends.difference_update(first)
    if len({end[1] for end in first} - {""}) == 1:
        job.status = max(end[1] for end in first)
    outcomes = [
        key for key, seen in known.outcomes.items() if since_ms <= min(seen) <= until_ms and _of_one(key[1], name)
    ]
    if len(outcomes) == 1:
        job.status = job.status or outcomes[0][0]
        del known.outcomes[outcomes[0]]


def _of_one(name: str, other: str) -> bool:
    """Whether two names can be of one migration."""
    return not name or not other or name == other


def interval_ms(kept: Sequence[int]) -> float:
    """How far apart samples mostly lie."""
    return float(numbers.median(b - a for a, b in pairwise(kept))) if len(kept) > 1 else float(SAMPLED_MS)

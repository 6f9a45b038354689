"""What really happened in a recorded migration, as far as a rule can be judged against it."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from migkit.trace import Readable
from migkit.units import NS_PER_MS

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
End = Literal["completed", "never converged", "failed", "cut short"]

ENDS: Final = ("completed", "never converged", "failed", "cut short")
# What an operator (or a monitor) does to a migration; faults of the lab are the world's.
CHANGES: Final = ("abort", "start_post_copy", "suspend", "set_max_downtime", "set_bandwidth")
# A pass that begins with so much less than every pass before is an improvement.
IMPROVES_BY: Final = 0.04
# A record that ends so long after its last improvement never converged; one that ends sooner was cut short.
HOPELESS_S: Final = 30.0
# ... and so many passes that began since without an improvement: large guests have passes of minutes.
HOPELESS_PASSES: Final = 2
_FLOW_WINDOW_S: Final = 1.0
_POLL_NS: Final = 400 * NS_PER_MS
# virDomainEventType and its details: suspended for the switchover, suspended for post-copy.
_SWITCHOVER, _POST_COPY = (3, 1), (3, 7)


class Judged(Readable, Protocol):
    """What is read of a trace to judge by it."""

    def deeds(self) -> Sequence[tuple[float, str, float]]:
        """What was successfully done: (seconds since the job began, action, argument or NaN)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """Facts of one record.

    `end`: completed (by itself); never converged (it ended, or its operator changed it, 30 s and two passes or more
    after its last improvement); failed (by itself); cut short (earlier than one could tell). `changed_s`: when its
    operator changed it, infinite when nobody did: from then on it is censored. `end_s`: when it completed, failed or
    was changed. `improved_s`: when its passes last began with less than ever before, infinite where it completed or is
    still in its first pass; `best_remaining_bytes`, the least that a pass began with before the switchover;
    `total_bytes`, the most that ever remained. `downtime_ms`: the guest's real pause where known, by heartbeat, else as
    reported. Of the samples before `end_s`, shape (samples,): time, remaining, sent,
    the bandwidth of the last second, what its pass began with, and what the guest dirtied in its pass (NaN where
    nobody knows). `limited`: whether a bandwidth limit was set. Times in seconds since the job began.
    """

    name: str
    end: End
    end_s: float
    changed_s: float
    improved_s: float
    best_remaining_bytes: float
    total_bytes: float
    downtime_ms: float | None
    freshness_ns: int
    limited: bool
    largest_bandwidth_bps: float
    iterations: int
    t_s: Floats
    remaining_bytes: Floats
    sent_bytes: Floats
    bandwidth_bps: Floats
    pass_level_bytes: Floats
    dirtied_in_pass_bytes: Floats

    def sample_at(self, t_s: Floats) -> Ints:
        """The newest sample at each moment; the first one before there is any."""
        return np.maximum(np.searchsorted(self.t_s, t_s, side="right") - 1, 0)

    def fingerprint(self) -> int:
        """The same for the same migration, whatever its file is called."""
        return zlib.crc32(self.t_s.tobytes() + self.remaining_bytes.tobytes())

    def sent_when_it_stopped_improving(self) -> float:
        """Bytes sent by then; infinite where it did not stop."""
        if not np.isfinite(self.improved_s):
            return np.inf
        return float(self.sent_bytes[self.sample_at(np.array([self.improved_s]))[0]])


def recorded(trace: Judged) -> Recorded:
    """Reads the facts from a trace's rows and metadata; never from the truth that a lab knows.

    Raises MigkitError when the trace holds no sample of a running migration.
    """
    changed_s = _changed_s(trace)
    chosen = trace.active & np.isfinite(trace.column("data_remaining_bytes"))
    ended_s = _ended_s(trace)
    chosen &= trace.t_s <= min(changed_s, ended_s, _stopped_s(trace, changed_s))
    if not chosen.any():
        chosen = trace.active
    t = trace.t_s[chosen]
    remaining, sent = trace.column("data_remaining_bytes")[chosen], trace.column("data_processed_bytes")[chosen]
    remaining, sent = np.nan_to_num(remaining), np.nan_to_num(sent)
    passes = _Passes(trace, chosen, remaining)
    flow = _flow(t, sent)
    improved_s = passes.improved_s
    end_s = min(changed_s, ended_s)
    hopeless = end_s - improved_s >= HOPELESS_S and passes.idle >= HOPELESS_PASSES
    end = _end(trace, changed_s, hopeless=hopeless)
    reported = trace.column("memory_bps")[chosen]
    return Recorded(
        name=trace.name, end=end, end_s=end_s, changed_s=changed_s,
        improved_s=np.inf if end == "completed" else improved_s,
        best_remaining_bytes=passes.best_bytes, total_bytes=float(remaining.max(initial=0)),
        downtime_ms=_downtime_ms(trace), freshness_ns=_freshness_ns(trace, t),
        limited=bool(trace.meta.migration.parameters.get("bandwidth")),
        largest_bandwidth_bps=float(np.nanmax(flow, initial=0.0)), iterations=passes.count,
        t_s=t, remaining_bytes=remaining, sent_bytes=sent, bandwidth_bps=np.fmin(flow, reported),
        pass_level_bytes=passes.level_bytes, dirtied_in_pass_bytes=passes.dirtied_bytes,
    )  # fmt: skip


class _Passes:
    """The iterations of the pre-copy in the chosen samples: what each began with, what was dirtied in it."""

    def __init__(self, trace: Judged, chosen: Bools, remaining: Floats) -> None:
        t, size = trace.t_s[chosen], len(remaining)
        number = np.nan_to_num(trace.column("memory_iteration")[chosen])
        self.level_bytes, self.dirtied_bytes = remaining.copy(), np.full(size, np.nan)
        self.best_bytes, self.improved_s, self.count = float(remaining.max(initial=0)), np.inf, 0
        self.idle = 0
        first = np.flatnonzero((number > 0) & (np.diff(number, prepend=0) != 0))
        if not len(first):
            return
        level = np.maximum.reduceat(remaining, first)
        place = np.searchsorted(first, np.arange(size), side="right") - 1
        inside = place >= 0
        self.level_bytes[inside] = level[place[inside]]
        pages = sum(np.nan_to_num(trace.column(name)[chosen]) for name in
                    ("memory_normal_pages", "memory_constant_pages", "compression_pages"))  # fmt: skip
        flow = remaining + pages * np.nan_to_num(trace.column("memory_page_size_bytes")[chosen])
        dirtied = np.append(np.diff(flow[first]), np.nan)
        if len(first) > 1:  # the last pass is not closed by a sample: at most as much again as in the worst before
            dirtied[-1] = np.nanmax(dirtied[:-1])
        self.dirtied_bytes[inside] = np.maximum(dirtied[place[inside]], 0)
        self.count = int(number.max())
        self.best_bytes = float(level.min())
        last = _improved(level)
        self.improved_s, self.idle = (np.inf, 0) if last is None else (float(t[first][last]), len(level) - 1 - last)


def _improved(level: Floats) -> int | None:
    """The last pass that began with less than every pass before, by more than IMPROVES_BY; none in the first pass,
    the second one where none ever did."""
    if len(level) < 2:
        return None
    last, least = 1, level[0]
    for place in range(1, len(level)):
        if level[place] < least * (1 - IMPROVES_BY):
            last, least = place, level[place]
    return last


def _flow(t: Floats, sent: Floats) -> Floats:
    """Bytes a second over the last second or the shortest stretch that is longer; NaN before there is one."""
    back = np.searchsorted(t, t - _FLOW_WINDOW_S, side="right") - 1
    found = np.full(len(t), np.nan)
    ok = back >= 0
    found[ok] = (sent[ok] - sent[back[ok]]) / (t[ok] - t[back[ok]])
    return found


def _changed_s(trace: Judged) -> float:
    """The first thing that somebody did to the migration; post-copy also by libvirt's event."""
    moments = [t for t, action, _ in trace.deeds() if action in CHANGES]
    return min([*moments, _event_s(trace, _POST_COPY)])


def _stopped_s(trace: Judged, changed_s: float) -> float:
    """When the guest was stopped for the switchover: no pass of the pre-copy begins after that."""
    return _event_s(trace, _SWITCHOVER) if np.isinf(changed_s) else np.inf


def _event_s(trace: Judged, event: tuple[int, int]) -> float:
    same = (trace.column("lifecycle_event") == event[0]) & (trace.column("lifecycle_detail") == event[1])
    return float(min(trace.t_s[same], default=np.inf))


def _ended_s(trace: Judged) -> float:
    completed = trace.meta.end.completed or {}
    if "time_elapsed" in completed:
        return float(completed["time_elapsed"]) / 1000
    return float(trace.t_s[np.flatnonzero(trace.active)[-1]])


def _end(trace: Judged, changed_s: float, *, hopeless: bool) -> End:
    if not np.isfinite(changed_s):
        if trace.meta.end.outcome == "completed":
            return "completed"
        if trace.meta.end.outcome in ("failed", "postcopy-failed"):
            return "failed"
    return "never converged" if hopeless else "cut short"


def _downtime_ms(trace: Judged) -> float | None:
    beat = trace.meta.heartbeat
    if beat is not None and beat.downtime_ms is not None:
        return beat.downtime_ms
    reported = (trace.meta.end.completed or {}).get("downtime")
    return None if reported is None else float(reported)


def _freshness_ns(trace: Judged, t_s: Floats) -> int:
    """How old a sample may be before a wake-up that reads it is only bounded: two intervals, but at least 400 ms."""
    interval_ms = trace.meta.cadence.interval_ms
    if interval_ms is None:
        interval_ms = float(np.median(np.diff(t_s))) * 1000 if len(t_s) > 1 else 0.0
    return max(int(2 * interval_ms * NS_PER_MS), _POLL_NS)

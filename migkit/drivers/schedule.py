"""When KubeVirt's monitor would have woken up over a recorded trace, and what it would have read.

A monitor polls 400 ms after its previous wake; from v1.9 an iteration event wakes it too, and restarts the 400 ms
(kubevirt/kubevirt pkg/virt-launcher/virtwrap/live-migration-source.go, v0.59 to v1.9). The trace was sampled at other
moments, so the schedule is laid over it at several phases of the 400 ms, and a wake reads the newest sample.
Where the trace holds wakes that a monitor recorded, those are used and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from migkit.errors import MigkitError
from migkit.fidelity import hears_iterations
from migkit.trace import Trace
from migkit.units import NS_PER_MS

POLL_NS = 400 * NS_PER_MS
PHASES = 8
# An event without a sample of its own is read from the sample after it, as a monitor would have, if it came so soon.
EVENT_SAMPLE_NS = 100 * NS_PER_MS
NO_SAMPLE_NS = np.iinfo(np.int64).max

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Wake-ups over a trace, one row each.

    Attributes:
        t_ns: shape (wakes,), ns since the monitor's start.
        event: shape (wakes,), whether an iteration event woke the monitor.
        row: shape (wakes,), the trace's row that the wake reads, -1 where there was nothing to read.
        age_ns: shape (wakes,), how old that row was, the largest number where there was none.
        phase_ms: how far the first poll lies behind the job's start.
        recorded: whether these are wakes that a real monitor recorded.
    """

    t_ns: Ints
    event: Bools
    row: Ints
    age_ns: Ints
    phase_ms: float
    recorded: bool = False


def schedules(trace: Trace, *, events: bool, phases: int = PHASES) -> list[Schedule]:
    """The wake-ups of a monitor that started with the job, at `phases` evenly spread phases of its 400 ms, the one
    that polls at whole multiples of 400 ms first; or the recorded wakes alone.

    `events`: whether iteration events wake this monitor. Raises MigkitError when the trace has no running job.
    """
    recorded = _recorded(trace)
    if recorded is not None:
        return [recorded]
    reading = _Reading(trace)
    steps = [POLL_NS * (phases - k) // phases for k in range(phases)]
    return [_schedule(reading, first_ns, events=events) for first_ns in steps]


def _recorded(trace: Trace) -> Schedule | None:
    rows = np.flatnonzero((trace.samples["source"] == "wake").to_numpy(dtype=bool))
    if not len(rows):
        return None
    samples = trace.samples.iloc[rows]
    answered = (samples["job_type"].notna() & samples["error_code"].isna()).to_numpy(dtype=bool)
    t_ns = samples["mono_ns"].to_numpy(dtype=np.int64) - trace.t0_ns
    return Schedule(
        t_ns=t_ns,
        event=samples["event_iteration"].notna().to_numpy(dtype=bool),
        row=np.where(answered, rows, -1),
        age_ns=np.where(answered, 0, NO_SAMPLE_NS),
        phase_ms=float(t_ns[0]) / NS_PER_MS,
        recorded=True,
    )


class _Reading:
    """Which row a wake reads: the newest answer, or nothing where that was an error or nobody could look."""

    def __init__(self, trace: Trace) -> None:
        rows = trace.samples
        asked = (rows["source"].isin(["poll", "iteration"]) & rows["latency_us"].notna()).to_numpy(dtype=bool)
        answered = (rows["job_type"].notna() & rows["error_code"].isna()).to_numpy(dtype=bool)
        told = rows["source"].isin(["poll", "iteration"]).to_numpy(dtype=bool)
        self.rows = np.flatnonzero(asked | (answered & told))
        self.times_ns = rows["mono_ns"].to_numpy(dtype=np.int64)[self.rows] - trace.t0_ns
        self.answered = answered[self.rows]
        self.gaps_ns = [(a - trace.t0_ns, b - trace.t0_ns) for a, b in trace.meta.cadence.gaps]
        self.mono_ns = rows["mono_ns"].to_numpy(dtype=np.int64) - trace.t0_ns
        if not len(self.rows):
            raise MigkitError(f"{trace.name or 'trace'}: holds no sample to read")
        self.end_ns = min(max(int(self.times_ns[-1]), _acted_ns(trace)), _completed_ns(trace))
        self.events_ns = _event_times_ns(trace, self.end_ns) if hears_iterations(trace) else self._counted_ns(trace)

    def _counted_ns(self, trace: Trace) -> list[int]:
        """Where nobody listened for events: when a sample first showed a higher iteration."""
        counts = trace.column("memory_iteration")[self.rows]
        rising = np.flatnonzero(counts[1:] > np.fmax.accumulate(counts)[:-1]) + 1
        return [int(t) for t in self.times_ns[rising] if 0 <= t <= self.end_ns]

    def at(self, t_ns: int) -> int:
        """The row of the newest answer at `t_ns`, -1 for none."""
        place = int(np.searchsorted(self.times_ns, t_ns, side="right")) - 1
        return self._row(place, t_ns)

    def after_event(self, t_ns: int) -> int:
        """The row that a monitor reads when it handles an event of `t_ns`: the sample taken right after it."""
        place = int(np.searchsorted(self.times_ns, t_ns, side="left"))
        soon = place < len(self.rows) and self.times_ns[place] - t_ns <= EVENT_SAMPLE_NS
        return self._row(place, t_ns) if soon else self.at(t_ns)

    def _row(self, place: int, t_ns: int) -> int:
        if place < 0 or not self.answered[place] or any(a <= t_ns < b for a, b in self.gaps_ns):
            return -1
        return int(self.rows[place])


def _schedule(reading: _Reading, first_ns: int, *, events: bool) -> Schedule:
    end_ns = reading.end_ns
    moments = reading.events_ns if events else []
    found: list[tuple[int, bool, int]] = []
    due_ns, next_event = first_ns, 0
    while due_ns <= end_ns:
        if next_event < len(moments) and moments[next_event] <= due_ns:
            t_ns = moments[next_event]
            next_event += 1
            found.append((t_ns, True, reading.after_event(t_ns)))
        else:
            t_ns = due_ns
            found.append((t_ns, False, reading.at(t_ns)))
        due_ns = t_ns + POLL_NS
    t_all: Ints = np.array([f[0] for f in found], dtype=np.int64)
    row = np.array([f[2] for f in found], dtype=np.int64)
    read_ns = reading.mono_ns[row]
    return Schedule(
        t_ns=t_all,
        event=np.array([f[1] for f in found], dtype=bool),
        row=row,
        age_ns=np.where(row >= 0, np.maximum(t_all - read_ns, 0), NO_SAMPLE_NS),
        phase_ms=first_ns / NS_PER_MS,
    )


def _acted_ns(trace: Trace) -> int:
    """Until when the job ran at least by what was done to it: who cancels it has just looked at it. The wake after
    the last deed is the last of which anything is known."""
    rows = trace.samples
    places = np.flatnonzero(rows["action"].isin(["abort", "start_post_copy", "suspend", "set_max_downtime"]))
    return int(rows["mono_ns"].iloc[places[-1]]) - trace.t0_ns + POLL_NS if len(places) else 0


def _completed_ns(trace: Trace) -> int:
    """When the job was done, by libvirt's final statistics or else by the job-completed event: whoever asks for
    statistics after that hangs until the migrate call has returned and the monitor with it."""
    end = trace.meta.end
    if end.outcome != "completed":
        return NO_SAMPLE_NS
    if end.completed and "time_elapsed" in end.completed:
        return int(end.completed["time_elapsed"]) * NS_PER_MS
    rows = trace.samples
    places = np.flatnonzero((rows["source"] == "job").to_numpy(dtype=bool))
    return int(rows["mono_ns"].iloc[places[-1]]) - trace.t0_ns if len(places) else NO_SAMPLE_NS


def _event_times_ns(trace: Trace, end_ns: int) -> list[int]:
    """When iteration events arrived: a row that waited for its sample began `event_lag_us` earlier."""
    rows = trace.samples[trace.samples["source"] == "iteration"]
    lag_ns = rows["event_lag_us"].fillna(0).to_numpy(dtype=np.int64) * 1000
    times = rows["mono_ns"].to_numpy(dtype=np.int64) - lag_ns - trace.t0_ns
    return sorted(int(t) for t in times if 0 <= t <= end_ns)

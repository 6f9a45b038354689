"""When KubeVirt's monitor would have woken up over a recorded trace, and what it would have read.

A monitor polls 400 ms after its previous wake; from v1.9 an iteration event wakes it too, and restarts the 400 ms
(kubevirt/kubevirt pkg/virt-launcher/virtwrap/live-migration-source.go, v0.59 to v1.9). The trace was sampled at other
moments, so the schedule is laid over it at several phases of the 400 ms, and a wake reads the newest sample.
Where the trace holds wakes that a monitor recorded under the same rule, those are used and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from migkit.drivers.columns import Bools, Columns, Ints, columns
from migkit.drivers.monitor import POLL_NS
from migkit.errors import MigkitError
from migkit.fidelity import ran_beside
from migkit.policies.versions import Policy
from migkit.trace import Trace
from migkit.units import NS_PER_MS

PHASES = 8
# An event without a sample of its own is read from the sample after it, as a monitor would have, if it came so soon.
EVENT_SAMPLE_NS = 100 * NS_PER_MS
NO_SAMPLE_NS = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Wake-ups over a trace, one row each.

    Attributes:
        t_ns: shape (wakes,), ns since the monitor's start.
        event: shape (wakes,), whether an iteration event woke the monitor.
        row: shape (wakes,), the trace's row that the wake reads, -1 where there was nothing to read.
        age_ns: shape (wakes,), how old that row was, the largest number where there was none.
        phase_ms: how far the first poll lies behind the job's start.
        wake: shape (wakes,), the trace's row that is the wake itself, where real wakes were recorded, else empty.
    """

    t_ns: Ints
    event: Bools
    row: Ints
    age_ns: Ints
    phase_ms: float
    wake: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def recorded(self) -> bool:
        """Whether these are wakes that a real monitor recorded."""
        return len(self.wake) > 0


def schedules(
    trace: Trace | Columns, *, events: bool, phases: int = PHASES, policy: Policy | None = None
) -> list[Schedule]:
    """The wake-ups of a monitor that started with the job, at `phases` evenly spread phases of its 400 ms, the one
    that polls at whole multiples of 400 ms first; or the recorded wakes alone.

    `events`: whether iteration events wake this monitor; `policy`, which it is: where the trace names the rule behind
    its wakes, they are those of no other (which hears other events, and ends at another time). Raises MigkitError when
    the trace has no running job.
    """
    found = trace if isinstance(trace, Columns) else columns(trace)
    recorded = _recorded(found, policy)
    if recorded is not None:
        return [recorded]
    reading = _Reading(found)
    return [_schedule(reading, _first_ns(k, phases), events=events) for k in range(phases)]


def schedule(trace: Columns, *, events: bool, phase: int = 0, policy: Policy | None = None) -> Schedule:
    """The wake-ups at one of the PHASES alone, or the recorded ones."""
    return _recorded(trace, policy) or _schedule(_Reading(trace), _first_ns(phase, PHASES), events=events)


def _first_ns(phase: int, phases: int) -> int:
    return POLL_NS * (phases - phase) // phases


def _recorded(trace: Columns, policy: Policy | None) -> Schedule | None:
    rows = np.flatnonzero(trace.came_from("wake"))
    if not len(rows) or not ran_beside(trace.meta, policy):
        return None
    answered, t_ns = _answered(trace)[rows], trace.t_ns[rows]
    return Schedule(
        t_ns=t_ns,
        event=trace.numbers["event_iteration"][1][rows],
        row=np.where(answered, rows, -1),
        age_ns=np.where(answered, 0, NO_SAMPLE_NS),
        phase_ms=float(t_ns[0]) / NS_PER_MS,
        wake=rows,
    )


def _answered(trace: Columns) -> Bools:
    return trace.numbers["job_type"][1] & ~trace.numbers["error_code"][1]


class _Reading:
    """Which row a wake reads: the newest answer, or nothing where that was an error or nobody could look."""

    def __init__(self, trace: Columns) -> None:
        told, answered = trace.came_from("poll") | trace.came_from("iteration"), _answered(trace)
        self.rows = np.flatnonzero(told & (answered | trace.numbers["latency_us"][1]))
        self.mono_ns = trace.t_ns
        self.times_ns = trace.t_ns[self.rows]
        self.answered = answered[self.rows]
        self.gaps_ns = [(a - trace.t0_ns, b - trace.t0_ns) for a, b in trace.meta.cadence.gaps]
        if not len(self.rows):
            raise MigkitError(f"{trace.name or 'trace'}: holds no sample to read")
        self.end_ns = _end_ns(trace, int(self.times_ns[-1]))
        self.events_ns = _event_times_ns(trace, self.end_ns) if _heard(trace) else self._counted_ns(trace)

    def _counted_ns(self, trace: Columns) -> Ints:
        """Where nobody listened for events: when a sample first showed a higher iteration."""
        counts, known = trace.numbers["memory_iteration"]
        counted = self.rows[known[self.rows]]
        rising = counted[1:][counts[counted][1:] > np.maximum.accumulate(counts[counted])[:-1]]
        times = trace.t_ns[rising]
        return times[(times >= 0) & (times <= self.end_ns)]

    def read(self, t_ns: Ints, event: Bools) -> Ints:
        """The row that each wake reads, -1 for none: the newest answer; for an event the sample that was taken right
        after it, as a monitor asks when it handles one."""
        newest = np.searchsorted(self.times_ns, t_ns, side="right") - 1
        following = np.searchsorted(self.times_ns, t_ns, side="left")
        last = len(self.rows) - 1
        soon = (following <= last) & (self.times_ns[np.minimum(following, last)] - t_ns <= EVENT_SAMPLE_NS)
        place = np.where(event & soon, following, newest)
        hidden = (place < 0) | ~self.answered[place]
        for begin_ns, end_ns in self.gaps_ns:
            hidden |= (t_ns >= begin_ns) & (t_ns < end_ns)
        return np.where(hidden, -1, self.rows[place])


def _schedule(reading: _Reading, first_ns: int, *, events: bool) -> Schedule:
    t_ns, event = _wakes(first_ns, reading.events_ns if events else reading.events_ns[:0], reading.end_ns)
    row = reading.read(t_ns, event)
    return Schedule(
        t_ns=t_ns,
        event=event,
        row=row,
        age_ns=np.where(row >= 0, np.maximum(t_ns - reading.mono_ns[row], 0), NO_SAMPLE_NS),
        phase_ms=first_ns / NS_PER_MS,
    )


def _wakes(first_ns: int, events_ns: Ints, end_ns: int) -> tuple[Ints, Bools]:
    """When the monitor wakes, and whether by an event: it polls from `first_ns` on, and 400 ms after each event anew;
    an event goes before a poll of the same moment. An event up to `end_ns` wakes it even where the next poll would be
    due behind that: the last pass may end less than 400 ms before the migration does.
    """
    starts = np.concatenate([[first_ns], events_ns + POLL_NS])
    stops = np.concatenate([events_ns, [max(end_ns, first_ns) + 1]])
    polls = np.maximum(-((starts - stops) // POLL_NS), 0)
    ends = np.cumsum(polls + 1)
    place = np.repeat(np.arange(len(starts)), polls + 1)
    number = np.arange(ends[-1]) - (ends - polls - 1)[place]
    event = number == polls[place]
    t_ns = np.where(event, stops[place], starts[place] + number * POLL_NS)
    count = int(np.searchsorted(t_ns, end_ns, side="right"))
    return t_ns[:count], event[:count]


def _acted_ns(trace: Columns) -> int:
    """Until when the job ran at least by what was done to it: who cancels it has just looked at it. The wake after
    the last deed is the last of which anything is known."""
    return trace.actions[-1][0] + POLL_NS if trace.actions else 0


def _end_ns(trace: Columns, last_ns: int) -> int:
    """Until when the monitor wakes: whoever asks for statistics once the job is done hangs until the migrate call has
    returned and the monitor with it. libvirt's final statistics tell when it was done; where there are none, what was
    last seen of the job, which was over before the event that tells of its completion."""
    end = trace.meta.end
    if end.elapsed_ms is not None:
        return end.elapsed_ms * NS_PER_MS
    seen_ns = max(last_ns, _acted_ns(trace))
    told = np.flatnonzero(trace.came_from("job"))
    return min(seen_ns, int(trace.t_ns[told[-1]])) if end.outcome == "completed" and len(told) else seen_ns


def _heard(trace: Columns) -> bool:
    """Whether iteration events would stand in the trace: it has some, or its recorder listened for them."""
    return bool(trace.came_from("iteration").any() or trace.meta.cadence.iteration_events)


def _event_times_ns(trace: Columns, end_ns: int) -> Ints:
    """When iteration events arrived: a row that waited for its sample began `event_lag_us` earlier."""
    rows = trace.came_from("iteration")
    times = np.sort(trace.t_ns[rows] - trace.numbers["event_lag_us"][0][rows] * 1000)
    return times[(times >= 0) & (times <= end_ns)]

"""A migration's lines of a virt-launcher log into rows and metadata: units, clocks, actions, outcome."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import json
import re
import statistics as numbers
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from migkit.capture.logs.base import MORE_NOTES, MOST_NOTES, Context, Imported, Row, trace_name
from migkit.capture.logs.clock import LastAtMost
from migkit.capture.logs.kubevirt_lines import Done, Entry, Event, Sample, done, is_uid, options, outcome
from migkit.capture.logs.kubevirt_rates import believed, bytes_of_mbps
from migkit.capture.logs.manifests import Facts
from migkit.capture.source import PAUSED, PAUSED_MIGRATION
from migkit.meta import Cadence, End, Migration, TraceMeta
from migkit.schema import JOB_UNBOUNDED
from migkit.units import MIB, NS_PER_MS, NS_PER_S, format_s

ORIGIN = "KubeVirt virt-launcher log"

# The monitor writes every tenth look of 400 ms.
_INTERVAL_MS = 4000.0
_STEP_NS = 1 * NS_PER_S
_PAGE_SIZES = (4096, 8192, 16384, 65536)
POLL_MS = 400
QEMU_DEFAULT_DOWNTIME_MS = 300


@dataclass(slots=True)
class _Draft:
    """What comes together: `offset_ns`, from the job's clock to the wall clock at each sample."""

    rows: list[Row] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    notes: dict[str, Any] = field(default_factory=dict)


def assemble(guest: Entry, samples: Sequence[Sample], events: Sequence[Event], context: Context) -> Imported:
    """The migration that these lines tell of. `samples` are in the order of libvirt's clock."""
    draft = _Draft()
    kept = list(_kept(samples, draft))
    clock = _Clock(kept, draft)
    version = believed(context.version, kept, events, draft.said)
    mbps = bytes_of_mbps(kept, version, draft.said) if any(sample.said.in_mbps for sample in kept) else 1
    page_bytes = _page_bytes(kept, draft)
    _tell_stripped(kept, draft)
    for sample in kept:
        draft.rows.append(_row(sample, clock, mbps, page_bytes))
    draft.rows += _event_rows(events, clock, draft)
    facts = context.manifests.facts(kept[0].said.migration, guest.uid, guest.namespace, guest.name)
    _options(events, draft)
    _limit_at_start(draft)
    draft.rows.sort(key=lambda row: row["mono_ns"])
    meta = _meta(guest, kept, events, clock, mbps, facts, draft)
    name = trace_name(f"{guest.namespace}-{guest.name}" if guest.namespace else guest.name,
                      clock.start_wall_ns, kept[0].said.migration)  # fmt: skip
    return Imported(rows=draft.rows, meta=meta, name=name, skipped=draft.skipped, said=tuple(draft.said))


def _kept(samples: Sequence[Sample], draft: _Draft) -> Iterator[Sample]:
    """Samples without those that stand in the log twice."""
    seen = set()
    for sample in samples:
        same = (sample.wall_ns, sample.source, sample.said)
        if same in seen:
            draft.skipped["the same line again"] += 1
        else:
            seen.add(same)
            yield sample


def _tell_stripped(samples: Sequence[Sample], draft: _Draft) -> None:
    """Says that the guest's name was taken out of KubeVirt's JSON, and perhaps the migration's too."""
    nameless = sum(sample.told and not sample.final for sample in samples)
    if nameless and not any(sample.named for sample in samples):
        draft.said.append(f"{nameless} lines of statistics are JSON without the guest's name and uid: the guest is "
                          "unknown, and they are read like bare lines")  # fmt: skip
    if not any(sample.named for sample in samples) and not is_uid(samples[0].said.migration):
        draft.said.append("neither guest nor migration is named: told from others by its numbers alone")


class _Clock:
    """libvirt's clock against the wall clock of the log."""

    def __init__(self, samples: Sequence[Sample], draft: _Draft) -> None:
        timed = [(s.order, s.said.elapsed_ms * NS_PER_MS, s.wall_ns) for s in samples if s.wall_ns is not None]
        orders = sorted((sample.order, sample.said.elapsed_ms * NS_PER_MS) for sample in samples)
        self._orders = [order for order, _ in orders]
        self._latest_ns = list(itertools.accumulate((mono_ns for _, mono_ns in orders), max))
        self._first_ns = samples[0].said.elapsed_ms * NS_PER_MS
        self.offsets = [(wall_ns, wall_ns - mono_ns) for _, mono_ns, wall_ns in timed]
        self._by_wall = LastAtMost([wall_ns for wall_ns, _ in self.offsets])
        self.start_wall_ns = self.offsets[0][1] if self.offsets else None
        self._tell_steps([mono_ns for _, mono_ns, _ in timed], draft)
        if not self.offsets:
            draft.said.append("the lines have no times: samples stand at libvirt's elapsed time, other lines at the "
                              "sample before them")  # fmt: skip

    def _tell_steps(self, times_ns: Sequence[int], draft: _Draft) -> None:
        moves = [(after - before, at) for (_, before), (_, after), at in
                 zip(self.offsets, self.offsets[1:], times_ns[1:], strict=False)]  # fmt: skip
        steps = [(step, at) for step, at in moves if abs(step) > _STEP_NS]
        if steps:
            more = f" and {len(steps) - 1} times more" if len(steps) > 1 else ""
            draft.said.append(f"the host's clock stepped by {steps[0][0] / NS_PER_S:+.1f} s before "
                              f"{format_s(steps[0][1] / NS_PER_S)}{more}; times are libvirt's own")  # fmt: skip

    def at(self, event: Event) -> int:
        """The job's clock at a line that has no statistics, by the sample nearest before it."""
        wall_ns = event.item.wall_ns
        if wall_ns is not None and self.offsets:
            return wall_ns - self.offsets[max(self._by_wall(wall_ns), 0)][1]
        before = bisect.bisect_left(self._orders, event.order)
        return self._latest_ns[before - 1] if before else self._first_ns

    def ended_by_ms(self, told_ns: Sequence[int | None]) -> int | None:
        """The job's clock when its end was first told; None where that has no time, or one before the last sample."""
        times_ns = [wall_ns for wall_ns in told_ns if wall_ns is not None]
        if not times_ns or not self.offsets:
            return None
        ended_ms = (min(times_ns) - self.offsets[-1][1]) // NS_PER_MS + 1
        return ended_ms if ended_ms * NS_PER_MS >= self._latest_ns[-1] else None


def _page_bytes(samples: Sequence[Sample], draft: _Draft) -> int | None:
    """The size of a page: what pages and bytes of those sent in full come to, and no other power of two."""
    best = max(samples, key=lambda sample: sample.said.normal_pages).said
    if best.normal_pages == 0:
        return None
    low = best.normal_data * (MIB if best.in_mib else 1)
    high = low + (MIB if best.in_mib else 1)
    fitting = [size for size in _PAGE_SIZES if low <= best.normal_pages * size < high]
    if len(fitting) != 1:
        draft.said.append("the page size cannot be told from the pages sent: dirty rates are left out")
        return None
    return fitting[0]


def _row(sample: Sample, clock: _Clock, mbps: int | None, page_bytes: int | None) -> Row:
    said = sample.said
    scale, rate = (MIB if said.in_mib else 1), (mbps if said.in_mbps else 1)
    dirty_bps = None if rate is None else said.dirty_rate * rate
    row: Row = {
        "mono_ns": said.elapsed_ms * NS_PER_MS,
        "wall_ns": sample.wall_ns,
        "source": "job" if sample.final else "iteration" if sample.source == "event" else "poll",
        "job_type": None if sample.final else JOB_UNBOUNDED,
        "event_iteration": sample.iteration if sample.source == "event" else None,
        "time_elapsed_ms": said.elapsed_ms,
        "data_processed_bytes": said.processed * scale,
        "data_remaining_bytes": said.remaining * scale,
        "data_total_bytes": said.total * scale,
        "memory_processed_bytes": said.memory_processed * scale,
        "memory_remaining_bytes": said.memory_remaining * scale,
        "memory_total_bytes": said.memory_total * scale,
        # libvirt leaves a rate out until there is one; the log prints what was left out as 0.
        "memory_bps": said.bandwidth * rate if rate and said.bandwidth else None,
        "disk_bps": said.disk_rate * rate if rate and said.disk_rate else None,
        "memory_dirty_rate_pages_per_s": _pages(dirty_bps, page_bytes),
        "memory_page_size_bytes": page_bytes if said.memory_total else None,
        "memory_iteration": said.iteration,
        "memory_postcopy_requests": said.postcopy_requests,
        "downtime_ms": said.downtime_ms if said.downtime_ms is not None else said.expected_ms or None,
        "downtime_net_ms": said.downtime_net_ms,
    }
    if said.memory_total:
        row |= {"memory_constant_pages": said.constant_pages, "memory_normal_pages": said.normal_pages,
                "memory_normal_bytes": said.normal_data * scale}  # fmt: skip
    if said.more:
        row["extra"] = json.dumps({"log": said.more})
    return row


def _pages(bps: int | None, page_bytes: int | None) -> int | None:
    if bps is None or (bps and page_bytes is None):
        return None
    return bps // page_bytes if page_bytes else 0


def _event_rows(events: Sequence[Event], clock: _Clock, draft: _Draft) -> list[Row]:
    """Actions, and the pause that the monitor found; the lines themselves are kept as notes."""
    rows: list[Row] = []
    asked: dict[str, Row] = {}
    kept: list[list[Any]] = []
    for event in events:
        item, did = event.item, done(event.item.message)
        moment: Row = {"mono_ns": clock.at(event), "wall_ns": item.wall_ns}
        if did is not None:
            rows += _act(moment | {"source": "action"}, did, item, asked)
        elif item.message.startswith("reconciling VM pause state"):
            rows.append(moment | {"source": "poll", "domain_state": PAUSED, "domain_reason": PAUSED_MIGRATION})
        kept.append([moment["mono_ns"], item.message[:1000] + (f" ({item.reason})" if item.reason else "")])
    if kept:
        draft.notes["monitor_lines"] = kept[:MOST_NOTES]
    draft.skipped += Counter({MORE_NOTES: len(kept) - MOST_NOTES})
    return rows


def _act(moment: Row, did: Done, item: Entry, asked: dict[str, Row]) -> list[Row]:
    """The row of an action. A line before the call makes it, taken for done unless the next line of its kind says that
    it failed; a line after the call settles it, or makes it where none came before."""
    row = moment | {"action": did.action, "argument": did.argument, "succeeded": did.state != "failed"}
    if did.state == "asked":
        asked[did.action] = row
        return [row]
    settled = asked.pop(did.action, None)
    if did.action == "suspend" and settled is None:
        # Somebody else paused the guest: the launcher says the same then, the monitor says before it that it will.
        return []
    target = row if settled is None else settled
    target["succeeded"] = did.state == "done"
    target["argument"] = target["argument"] if did.argument is None else did.argument
    if did.state == "failed" and item.reason:
        target["error_text"] = item.reason
    return [row] if settled is None else []


def _options(events: Sequence[Event], draft: _Draft) -> None:
    """The monitor's effective options, by a policy's names: virt-handler's line is exact, the monitor's rounds."""
    messages = [event.item.message for event in events]
    rounded = [m for m in messages if m.startswith(("initialized", "downtime tuning enabled"))]
    exact = [m for m in messages if m.startswith("migration options matched")]
    found: dict[str, Any] = {}
    for message in [*rounded, *exact]:
        found |= options(message)
    if found:
        draft.notes["kubevirt_options"] = found
        draft.said.append("the monitor's own options are in the notes (kubevirt_options)")


def _limit_at_start(draft: _Draft) -> None:
    """With stall detection a monitor first sets the downtime limit, and has a line for that only where it fails."""
    found = draft.notes.get("kubevirt_options", {})
    first_ns = min((row["mono_ns"] for row in draft.rows if row.get("job_type") is not None), default=0)
    failed = any(row.get("action") == "set_max_downtime" and not row["succeeded"] for row in draft.rows)
    if found.get("stall_detection") and "max_downtime_ms" in found and not failed:
        limit_ms = min(int(found["max_downtime_ms"]), QEMU_DEFAULT_DOWNTIME_MS)
        draft.rows.append({"mono_ns": min(first_ns, POLL_MS * NS_PER_MS), "source": "action",
                           "action": "set_max_downtime", "argument": limit_ms})  # fmt: skip
        draft.said.append(f"the first downtime limit of {limit_ms} ms follows from the options, no line tells of it")


def _meta(
    guest: Entry, samples: Sequence[Sample], events: Sequence[Event], clock: _Clock, mbps: int | None, facts: Facts,
    draft: _Draft,
) -> TraceMeta:  # fmt: skip
    in_mib = any(sample.said.in_mib for sample in samples)
    started = next((e.item.wall_ns for e in events if e.item.message.startswith("Initiating live migration")), None)
    draft.notes["migration_uid"] = samples[0].said.migration
    draft.notes |= facts.notes
    limit_mib = _bandwidth_mib(events)
    return TraceMeta(
        provenance="imported",
        origin=ORIGIN,
        domain=facts.domain(guest.namespace, guest.name),
        migration=Migration(
            parameters={} if limit_mib is None else {"bandwidth": limit_mib},
            started_wall_ns=started or facts.started_wall_ns or clock.start_wall_ns,
        ),
        cadence=Cadence(
            recorder="KubeVirt's migration monitor", interval_ms=_interval_ms(samples),
            resolution_bytes=MIB if in_mib else None,
            resolution_bps=mbps if any(sample.said.in_mbps for sample in samples) else None,
            iteration_events=_hears(samples, events), read_only=False, lacks=() if mbps else ("memory_bps",),
        ),
        end=_end(samples, events, clock, facts),
        notes=draft.notes,
    )  # fmt: skip


def _interval_ms(samples: Sequence[Sample]) -> float:
    polls = [sample.said.elapsed_ms for sample in samples if not sample.final and sample.source != "event"]
    apart = [b - a for a, b in itertools.pairwise(polls) if b > a]
    return float(round(numbers.median(apart))) if len(apart) >= 3 else _INTERVAL_MS


def _hears(samples: Sequence[Sample], events: Sequence[Event]) -> bool:
    """A monitor with stall detection writes every iteration event; its lines say what woke it."""
    fell_back = any(e.item.message.startswith("failed to register migration iteration") for e in events)
    return any(sample.source for sample in samples) and not fell_back


def _bandwidth_mib(events: Sequence[Event]) -> int | None:
    """The bandwidth limit that was asked of libvirt."""
    for event in events:
        if event.item.message.startswith("generated migration parameters: "):
            match = re.search(r"\bBandwidthSet:true Bandwidth:(\d{1,9})\b", event.item.message, re.ASCII)
            return int(match[1]) if match else None
    return None


def _end(samples: Sequence[Sample], events: Sequence[Event], clock: _Clock, facts: Facts) -> End:
    """What the final statistics prove, else the launcher's lines, else the object's status."""
    final = next((sample for sample in samples if sample.final), None)
    if final is not None:
        return End(outcome="completed", evidence="final statistics in the log", completed=_completed(final),
                   completed_from="event")  # fmt: skip
    proofs = [(event, *proof) for event in events if (proof := outcome(event.item)) is not None]
    for verdict in ("completed", "cancelled", "failed"):
        found = [(event, evidence, text) for event, kind, evidence, text in proofs if kind == verdict]
        if found:
            text = max((text for _, _, text in found), key=len)
            post_copy = verdict == "failed" and any(
                (did := done(event.item.message)) and did.action == "start_post_copy" for event in events
            )
            return End(outcome="postcopy-failed" if post_copy else verdict, evidence=found[0][1],
                       error_text="" if verdict == "completed" else text or facts.end.error_text,
                       ended_by_ms=clock.ended_by_ms([event.item.wall_ns for event, *_ in proofs]))  # fmt: skip
    if facts.end.outcome != "lost":
        # The object's times are cut to whole seconds.
        ended_ns = None if facts.ended_wall_ns is None else facts.ended_wall_ns + NS_PER_S
        return dataclasses.replace(facts.end, ended_by_ms=clock.ended_by_ms([ended_ns]))
    return End(outcome="lost", evidence="the log ends before the migration does")


def _completed(final: Sample) -> dict[str, Any]:
    """The final statistics by libvirt's keys; amounts as coarse as the log's."""
    said, scale = final.said, MIB if final.said.in_mib else 1
    found: dict[str, Any] = {
        "time_elapsed": said.elapsed_ms,
        "data_total": said.total * scale, "data_processed": said.processed * scale,
        "data_remaining": said.remaining * scale, "memory_total": said.memory_total * scale,
        "memory_processed": said.memory_processed * scale, "memory_remaining": said.memory_remaining * scale,
        "memory_constant": said.constant_pages, "memory_normal": said.normal_pages,
        "memory_normal_bytes": said.normal_data * scale, "memory_iteration": said.iteration,
        "memory_postcopy_requests": said.postcopy_requests,
        "downtime": said.downtime_ms if said.downtime_ms is not None else said.expected_ms,
    }  # fmt: skip
    return found if said.downtime_net_ms is None else found | {"downtime_net": said.downtime_net_ms}

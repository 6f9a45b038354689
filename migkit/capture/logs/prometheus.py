"""KubeVirt's metrics of migrations, kubevirt_vmi_migration_*, into traces: Prometheus' answers (JSON of a range query
or of a range selector), or what /metrics itself said (text), with its timestamps or a line with the date before each.

Metrics: kubevirt/kubevirt pkg/monitoring, v0.53.0 to main at d923fdb815. v0.53 and v0.54 put pages a second under a
name that says bytes; v1.1 to v1.6 put memory bandwidth under the name of the disk (v1.1 the disk under memory);
virt-handler samples every 5 s from v1.4 on and hands its last ten samples out again at each scrape.
"""

from __future__ import annotations

import bisect
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, groupby
from typing import Any

from migkit.capture.logs.base import Context, Imported, Line, Row, fits, trace_name
from migkit.capture.logs.manifests import Facts
from migkit.capture.logs.prometheus_jobs import (
    APART_MS,
    SAMPLED_MS,
    Guest,
    Job,
    Points,
    Samples,
    Times,
    add_times,
    fit,
    interval_ms,
)
from migkit.capture.logs.stamps import line_stamp
from migkit.meta import Cadence, End, Migration, TraceMeta
from migkit.schema import JOB_UNBOUNDED
from migkit.units import NS_PER_MS, NS_PER_S, format_s

ORIGIN = "Prometheus, KubeVirt's migration metrics"
NEEDLES: tuple[bytes, ...] = ()

_TEXT = re.compile(rb"(kubevirt_(?:vmi_migration|migrate_vmi)_\w+)\{(.*)\} (\S+)(?: (\d{1,16}(?:\.\d{1,9})?))?[ \t]*")
_NAMED = re.compile(rb'"__name__"\s*:\s*"kubevirt_(?:vmi_migration|migrate_vmi)_\w')
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED = {"\\n": "\n", '\\"': '"', "\\\\": "\\"}
_METRIC = re.compile(r"kubevirt_(vmi_migration|migrate_vmi)_(\w+)")
_COLUMNS = {
    "data_remaining_bytes": "data_remaining_bytes",
    "data_processed_bytes": "data_processed_bytes",
    "data_total_bytes": "data_total_bytes",
    "data_bytes_total": "data_total_bytes",
    "dirty_memory_rate_bytes": "dirty",
    "memory_transfer_rate_bytes": "memory_rate",
    "disk_transfer_rate_bytes": "disk_rate",
}
# The product of pages and page size is what the metric says; libvirt gives them apart.
_PAGE_BYTES = 4096

# Of what rules look at: what is not exported, or was not asked for.
_LACKS = {"data_remaining_bytes", "memory_bps", "memory_iteration"}

# A series' labels and its samples.
Series = tuple[dict[str, str], Samples]


def matches(head: bytes) -> bool:
    """An answer of Prometheus' HTTP API, its keys in any order, or a metric of a migration as /metrics says it."""
    if head.lstrip()[:1] == b"{":
        return b'"resultType"' in head[:4096] or _NAMED.search(head) is not None
    return re.search(rb"^kubevirt_(?:vmi_migration|migrate_vmi)_\w+\{", head, re.MULTILINE) is not None


def read(lines: Iterator[Line], context: Context) -> Iterator[Imported]:
    """The migrations of all answers together: one metric a file is as good as all in one."""
    guests: dict[tuple[str, str, str], Guest] = {}
    times: dict[tuple[str, str], Times] = {}
    for _, group in groupby(lines, key=lambda line: line.place):
        for series in _said(group, context.skipped):
            _add(series, guests, times, context.skipped)
    by_name: dict[tuple[str, str], list[Guest]] = {}
    while guests:
        (namespace, name, _), guest = guests.popitem()
        by_name.setdefault((namespace, name), []).insert(0, guest)
    while by_name:
        key, nodes = by_name.popitem()
        for guest in nodes:
            guest.merge(context.skipped)
        known = times.pop(key, Times())
        jobs = [_fresh(guest, moments) for guest in nodes for moments in _migrations(guest, known)]
        fit(known, sorted(jobs, key=lambda job: job.kept[0]), context.skipped)
        for job in jobs:
            yield _imported(job, context)
    for known in times.values():
        fit(known, [], context.skipped)


def _said(lines: Iterator[Line], skipped: Counter[str]) -> Iterator[Series]:
    """The series of a file, whichever of the two it is."""
    first = next((line for line in lines if line.text.strip()), None)
    if first is None:
        return
    if first.text.lstrip()[:1] != b"{":
        yield from _scraped(chain([first], lines), skipped)
        return
    whole = bytearray(first.text)
    for line in lines:
        whole += b"\n" + line.text
    del first
    for answer in _answers(whole.decode("utf-8", "replace"), skipped):
        yield from _series(answer, skipped)


def _scraped(lines: Iterator[Line], skipped: Counter[str]) -> Iterator[Series]:
    """What /metrics said, one time or many."""
    found: dict[tuple[bytes, bytes], Samples] = {}
    asked_s: float | None = None
    for line in lines:
        value = _TEXT.fullmatch(line.text)
        if value is not None:
            told_s = asked_s if value[4] is None else _told_s(float(value[4]))
            if told_s is None:
                skipped["metric without a time: none behind it, and no line with the date before it"] += 1
            else:
                found.setdefault((value[1], value[2]), Samples()).add((told_s, value[3]))
        # Names of metrics have underscores; dates have none.
        elif b"_" not in line.text and (stamp := line_stamp(line.text.decode("utf-8", "replace"))) is not None:
            asked_s = stamp.wall_ns / NS_PER_S
        elif line.text.strip() and not line.text.startswith(b"#"):
            skipped["foreign line"] += 1
    for (name, labels), values in found.items():
        pairs = {label: re.sub(r"\\.", lambda found: _ESCAPED.get(found[0], found[0]), told)
                 for label, told in _LABEL.findall(labels.decode("utf-8", "replace"))}  # fmt: skip
        yield pairs | {"__name__": name.decode()}, values


def _told_s(number: float) -> float:
    """Prometheus' own text has timestamps in ms, OpenMetrics in s."""
    return number / 1000 if number > 1e11 else number


def _answers(words: str, skipped: Counter[str]) -> Iterator[dict[str, Any]]:
    """JSON documents, one behind the other; of each series no more is kept than its samples' numbers."""
    decoder, at = json.JSONDecoder(object_hook=_packed), 0
    while at < len(words):
        begin = words.find("{", at)
        if begin < 0:
            return
        try:
            document, at = decoder.raw_decode(words, begin)
        except (ValueError, RecursionError):
            skipped["answer of Prometheus that is cut short"] += 1
            return
        if isinstance(document, dict):
            yield document


def _packed(found: dict[str, Any]) -> dict[str, Any]:
    """A series with its samples packed, while the rest of the answer is still text; any other object as it is."""
    if isinstance(found.get("metric"), dict):
        values, samples = found.get("values", [found.get("value")]), Samples()
        for pair in values if isinstance(values, list) else ():
            samples.add(pair)
        found["values"] = samples if isinstance(values, list) else None
    return found


def _series(answer: Mapping[str, Any], skipped: Counter[str]) -> Iterator[Series]:
    data = answer.get("data")
    result = data.get("result") if isinstance(data, dict) else None
    if not isinstance(result, list):
        skipped["answer of Prometheus without a result"] += 1
        return
    for series in result:
        labels = series.get("metric") if isinstance(series, dict) else None
        values = series.get("values") if isinstance(series, dict) else None
        if isinstance(labels, dict) and isinstance(values, Samples):
            yield {str(key): str(value) for key, value in labels.items()}, values
        else:
            skipped["series of an unknown form"] += 1


def _add(
    series: Series, guests: dict[tuple[str, str, str], Guest],
    times: dict[tuple[str, str], Times], skipped: Counter[str],
) -> None:  # fmt: skip
    labels, values = series
    metric = _METRIC.fullmatch(labels.get("__name__", ""))
    namespace = labels.get("exported_namespace", labels.get("namespace", ""))
    name = labels.get("vmi") or labels.get("exported_name", labels.get("name", ""))
    if metric is None or not name:
        skipped["series of another metric, or of no guest"] += 1
        return
    skipped.update(values.skipped)
    if metric[2] not in _COLUMNS:
        add_times(times.setdefault((namespace, name), Times()), metric[2], labels, values.points())
        return
    key = (namespace, name, labels.get("node", ""))
    guest = guests.setdefault(key, Guest(namespace=namespace, name=name, node=key[2]))
    guest.new_names |= metric[1] == "vmi_migration"
    guest.series.setdefault(_COLUMNS[metric[2]], []).append(values)


def _migrations(guest: Guest, known: Times) -> Iterator[list[int]]:
    """The times of each migration's samples, in ms: they end where nothing came for long, less was processed, or
    another one is told to have started."""
    moments = sorted(set().union(*guest.columns.values()))
    processed = guest.columns.get("data_processed_bytes", {})
    starts_ms = sorted({start[0] * 1000 for start in known.starts})
    job: list[int] = []
    done = 0
    for moment in moments:
        started = job and _starts_between(starts_ms, job, moment)
        anew = job and (moment - job[-1] > APART_MS or processed.get(moment, done) < done or started)
        if anew:
            yield job
            job = []
        done = processed.get(moment, 0 if anew else done)
        job.append(moment)
    if job:
        yield job


def _starts_between(starts_ms: Sequence[int], job: Sequence[int], moment: int) -> bool:
    """Whether another migration started before a sample and after those of one: starts are cut to whole seconds."""
    latest = bisect.bisect_right(starts_ms, moment) - 1
    return latest >= 0 and starts_ms[latest] + 1000 > job[-1] and starts_ms[latest] > job[0] + 1000


def _imported(job: Job, context: Context) -> Imported:
    guest, kept, start_s, said = job.guest, job.kept, job.start_s, job.said
    facts = context.manifests.facts("", "", guest.namespace, guest.name)
    if start_s is not None:
        said.append("elapsed time counts from start_time_seconds, which is in whole seconds")
    rates = _rates(guest, kept, context.version, said)
    rows = [_row(guest, moment, kept[0] if start_s is None else start_s * 1000, start_s is not None, rates)
            for moment in kept]  # fmt: skip
    possible = [row for row in rows if fits(row)]
    meta = _meta(guest, kept, possible, start_s, _end(job.status), facts)
    began_ns = (kept[0] if start_s is None else start_s * 1000) * NS_PER_MS
    name = trace_name(f"{guest.namespace}-{guest.name}" if guest.namespace else guest.name, began_ns)
    return Imported(rows=possible, meta=meta, name=name, skipped=job.skipped, said=tuple(said))


def _fresh(guest: Guest, moments: list[int]) -> Job:
    """Without the repetitions that a query makes: of the last value for minutes after the end, and of every value
    where it asks more often than there were samples."""
    job = Job(guest=guest, moments=moments)
    values = {moment: tuple(points.get(moment) for points in guest.columns.values()) for moment in moments}
    last = len(moments) - 1
    while last > 0 and values[moments[last - 1]] == values[moments[-1]]:
        last -= 1
    if last < len(moments) - 1:
        job.skipped["last values repeated by the query"] += len(moments) - 1 - last
        repeated_s = (moments[-1] - moments[last]) / 1000
        job.said.append(
            f"the last values repeat for {format_s(repeated_s)}, as Prometheus does after the end: left out"
        )
    kept = moments[:1]
    for moment in moments[1 : last + 1]:
        if values[moment] == values[kept[-1]] and moment - kept[-1] < SAMPLED_MS:
            job.skipped["value repeated by the query"] += 1
        else:
            kept.append(moment)
    job.kept = kept
    return job


def _rates(guest: Guest, kept: list[int], version: str | None, said: list[str]) -> dict[str, Points]:
    """Bandwidths of memory and disk and the dirty rate in bytes a second, whatever their metrics were called."""
    here = {name: points for name, points in guest.columns.items() if any(moment in points for moment in kept)}
    memory, disk = here.get("memory_rate", {}), here.get("disk_rate", {})
    if guest.new_names and disk:
        memory, disk = disk, memory
        said.append("the memory's bandwidth stands under the disk's name (KubeVirt v1.1 to v1.6): put right")
    dirty = here.get("dirty", {})
    old = re.match(r"v?0\.5[34]\b", version or "") is not None
    # A transfer rate there is since v0.55 only, whatever version was told.
    in_pages = dirty and not guest.new_names and not memory and not disk and (old or version is None)
    if dirty and old and not in_pages:
        said.append(f"--kubevirt-version {version} cannot have exported these metrics: it is not gone by")
    if in_pages:
        said.append("the dirty rate is in pages a second, whatever its name says (KubeVirt v0.53 and v0.54)")
    elif dirty:
        said.append(f"the dirty rate is in bytes a second: kept as pages of {_PAGE_BYTES} bytes")
    return {"memory": memory, "disk": disk, "pages" if in_pages else "dirty": dirty}


def _row(guest: Guest, moment: int, start_ms: int, started: bool, rates: Mapping[str, Points]) -> Row:
    row: Row = {"mono_ns": (moment - start_ms) * NS_PER_MS, "wall_ns": moment * NS_PER_MS, "source": "poll",
                "job_type": JOB_UNBOUNDED, "time_elapsed_ms": max(moment - start_ms, 0) if started else None,
                "memory_bps": rates["memory"].get(moment), "disk_bps": rates["disk"].get(moment)}  # fmt: skip
    for column in ("data_remaining_bytes", "data_processed_bytes", "data_total_bytes"):
        row[column] = guest.columns.get(column, {}).get(moment)
    if (pages := rates.get("pages", {}).get(moment)) is not None:
        row["memory_dirty_rate_pages_per_s"] = pages
    if (dirty := rates.get("dirty", {}).get(moment)) is not None:
        row |= {"memory_dirty_rate_pages_per_s": dirty // _PAGE_BYTES, "memory_page_size_bytes": _PAGE_BYTES}
    return row


def _meta(guest: Guest, kept: list[int], rows: Sequence[Row], start_s: int | None, end: End, facts: Facts) -> TraceMeta:
    known = {column for row in rows for column, value in row.items() if value is not None}
    usual_ms = interval_ms(kept)
    return TraceMeta(
        provenance="imported",
        origin=ORIGIN,
        domain=facts.domain(guest.namespace, guest.name),
        migration=Migration(started_wall_ns=None if start_s is None else start_s * NS_PER_S),
        cadence=Cadence(
            recorder="KubeVirt's virt-handler", interval_ms=usual_ms, iteration_events=False, read_only=True,
            lacks=tuple(sorted(_LACKS - known)),
            start_uncertain_ms=max(usual_ms, _before_ms(rows)) if start_s is None else 1000.0,
        ),
        end=end,
        notes={"node": guest.node} if guest.node else {},
    )  # fmt: skip


def _before_ms(rows: Sequence[Row]) -> float:
    """For how long it had run when it was first looked at, by what it had sent and how fast it sent."""
    sent_bytes, bps = ((rows[0].get(name) if rows else None) for name in ("data_processed_bytes", "memory_bps"))
    return sent_bytes / bps * 1000 if sent_bytes and bps else 0.0


def _end(status: str) -> End:
    """How it ended by the metrics."""
    outcomes = {"succeeded": "completed", "failed": "failed"}
    if status in outcomes:
        return End(outcome=outcomes[status], evidence="KubeVirt's metrics")
    return End(outcome="lost", evidence="the metrics do not tell how it ended")

"""Raw JSON lines of libvirt job stats, as a polling script writes them, into a trace.

One JSON object a line, in time order, plain or gzip. Every line has `kind` and `t_mono_ns` (when it began, monotonic)
and `t_wall` (Unix seconds, when it was written). Kinds: `stats` (`stats` = libvirt's typed parameters unscaled, plus
`type`; `lat_us` = length of the call), `stats_error` (`error` with libvirt's code and msg), `event` (`side` src or
dst; migration_iteration, job_completed, lifecycle, qmp), `action` and `action_done`, `migrate_return`,
`completed_stats`, `conn_closed`, `reopened`; any other kind is a note. Beside NAME.jsonl.gz may stand NAME.meta.json.
"""

from __future__ import annotations

import collections
import gzip
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from migkit.capture.logs.base import Context, Imported, file_name, fits
from migkit.capture.logs.base import Line as Text
from migkit.capture.stats_row import row_from_stats
from migkit.errors import MigkitError
from migkit.meta import Cadence, Domain, End, Heartbeat, Host, Lab, Migration, TraceMeta
from migkit.schema import JOB_CANCELLED, JOB_UNBOUNDED
from migkit.trace import Trace
from migkit.units import MIB

ORIGIN = "raw JSON lines of libvirt job stats"
NEEDLES: tuple[bytes, ...] = (b'"t_mono_ns"',)

_ACTIONS = {"abortJob": "abort", "migrateStartPostCopy": "start_post_copy", "migrateSetMaxDowntime": "set_max_downtime"}
_OPERATION_ABORTED = 78

Line = dict[str, Any]


def matches(head: bytes) -> bool:
    """A line of it has both clocks and a kind; the first one may have been cut."""
    keys = (b'"t_mono_ns"', b'"t_wall"', b'"kind"')
    return any(all(key in line for key in keys) for line in head.lstrip()[:16384].split(b"\n")[:2])


def read(lines: Iterator[Text], context: Context) -> Iterator[Imported]:
    """One migration a file; lines that are none of a raw recording are skipped and counted."""
    for place, group in itertools.groupby(lines, key=lambda line: line.place):
        skipped: Counter[str] = Counter()
        parsed = [line for text in group if (line := _parsed(place, text, skipped)) is not None]
        rows = [row for line in parsed for row in _rows(line)]
        if not any(row.get("job_type") == JOB_UNBOUNDED for row in rows):
            context.skipped["raw recording without statistics of a running migration"] += len(parsed)
            continue
        _note_success(rows, parsed)
        rows.sort(key=lambda row: row["mono_ns"])
        try:
            facts, said = _side_file(Path(place), skipped), ""
        except MigkitError as error:
            facts, said = {}, str(error)
        member = place if os.path.isfile(place) else place.rpartition(":")[2]
        name = file_name(member.rpartition("/")[2].removesuffix(".gz").removesuffix(".jsonl"))
        yield Imported(rows=rows, meta=_meta(parsed, facts), name=name, skipped=skipped, said=(said,) if said else ())


def _parsed(place: str, text: Text, skipped: Counter[str]) -> Line | None:
    """The line, if everything that is read of it later is there and fits."""
    try:
        return _parse(Path(place), text.number, text.text.decode("utf-8", "replace"))
    except MigkitError:
        skipped["not a line of a raw recording"] += 1
        return None


def _check(line: Line) -> None:
    """Raises KeyError, TypeError or AttributeError where something that is read later is missing or of another kind."""
    kind = line["kind"]
    right = isinstance(kind, str)
    match kind:
        case "stats":
            right = isinstance(line["stats"], dict)
        case "action" | "action_done":
            right = _is_text(line["name"]) and _is_count(line.get("flags") or 0) and _is_table(line.get("params") or {})
        case "migrate_return":
            error = line["result"].get("error") or {"code": 0}
            right = type(error["code"]) is int and _is_text(error.get("msg", ""))
        case "event" if line["event"] == "job_completed":
            right = _is_table(line["params"])
            TraceMeta(end=End(completed=dict(line["params"])))
        case "event" if line["event"] == "lifecycle":
            _ = line["side"], line["ev"], line["detail"]
    clocks = {"mono_ns": line["t_mono_ns"], "wall_ns": line["wall_ns"]}
    if not right or not all(fits(row) for row in (clocks, *_rows(line))):
        raise TypeError("a value of the wrong kind")


def read_file(path: str | os.PathLike[str]) -> Trace:
    """Reads one raw recording, and refuses it when a line of it is not as it should be.

    Raises MigkitError, naming the file and the line, when a line is not a JSON object with its two clocks, or when
    no line holds statistics of a running job.
    """
    source = Path(path)
    lines = list(_lines(source))
    if not any(line["kind"] == "stats" and line["stats"].get("type") == JOB_UNBOUNDED for line in lines):
        raise MigkitError(f"{source}: holds no statistics of a running migration; is it a raw recording?")
    rows = [row for line in lines for row in _rows(line)]
    _note_success(rows, lines)
    rows.sort(key=lambda row: row["mono_ns"])
    name = source.name.removesuffix(".gz").removesuffix(".jsonl")
    return Trace.from_rows(rows, _meta(lines, _side_file(source, Counter())), name)


def _lines(path: Path) -> Iterator[Line]:
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8-sig") as stream:
            for number, text in enumerate(stream, 1):
                yield _parse(path, number, text)
    except FileNotFoundError:
        raise MigkitError(f"{path}: no such file") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise MigkitError(f"{path}: cannot be read ({error})") from None


def _parse(path: Path, number: int, text: str) -> Line:
    try:
        line: Line = json.loads(text)
        line["t_mono_ns"] = int(line["t_mono_ns"])
        line["wall_ns"] = round(line["t_wall"] * 1e9)
        _check(line)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError, MigkitError) as error:
        raise MigkitError(
            f"{path}: line {number} is not of a raw recording ({type(error).__name__}: {error}); cut it there"
        ) from None
    return line


def _rows(line: Line) -> Iterator[dict[str, Any]]:
    kind = line["kind"]
    row: dict[str, Any] = {"mono_ns": line["t_mono_ns"], "wall_ns": line["wall_ns"]}
    if kind in ("stats", "stats_error"):
        # The script stamps the monotonic clock before the call and the wall clock after it.
        latency_us = line.get("lat_us", 0)
        row |= {"mono_ns": line["t_mono_ns"] + latency_us * 1000, "source": "poll", "latency_us": latency_us}
        yield row | (row_from_stats(line["stats"]) if kind == "stats" else _error(line["error"]))
    elif kind == "event" and line.get("side") == "src":
        yield from _event_row(row, line)
    elif kind == "action":
        yield row | {"source": "action", "action": _ACTIONS.get(line["name"], line["name"].replace(" ", "_"))}


def _event_row(row: dict[str, Any], line: Line) -> Iterator[dict[str, Any]]:
    match line["event"]:
        case "migration_iteration":
            yield row | {"source": "iteration", "event_iteration": line["iteration"]}
        case "lifecycle":
            codes = {"lifecycle_event": line["ev_n"], "lifecycle_detail": line["detail_n"]}
            yield row | {"source": "lifecycle"} | codes
        case "job_completed":
            yield row | {"source": "job"} | row_from_stats(line["params"])


def _error(error: dict[str, Any]) -> dict[str, Any]:
    return {"error_code": error["code"], "error_text": error["msg"]}


def _note_success(rows: list[dict[str, Any]], lines: list[Line]) -> None:
    done = collections.defaultdict(list)
    for line in lines:
        if line["kind"] == "action_done":
            done[line["name"]].append(line.get("ret"))
    performed = iter([line["name"] for line in lines if line["kind"] == "action"])
    for row in rows:
        if row["source"] == "action":
            results = done[next(performed)]
            row["succeeded"] = results.pop(0) in (0, "", None) if results else None


def _side_file(path: Path, skipped: Counter[str]) -> dict[str, Any]:
    """What stands beside a recording, where that is a file of its own; values of the wrong kind are counted."""
    beside = f"{str(path).removesuffix('.gz').removesuffix('.jsonl')}.meta.json"
    if not (os.path.isfile(path) and os.path.isfile(beside)):
        return {}
    try:
        facts = json.loads(Path(beside).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise MigkitError(f"{beside}: cannot be read ({error}); mend or remove it") from None
    if not isinstance(facts, dict):
        raise MigkitError(f"{beside}: holds no JSON object; mend or remove it")
    wrong = [name for name, is_right in _FACTS.items() if facts.get(name) is not None and not is_right(facts[name])]
    for name in wrong:
        skipped[f"{name} of the wrong kind in the .meta.json"] += 1
    return {name: facts[name] for name in _FACTS if facts.get(name) is not None and name not in wrong}


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 2**63


def _is_gaps(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(gap, list) and gap and _is_number(gap[0]) for gap in value)


# What is read of a side file, and of which kind it has to be.
_FACTS: dict[str, Callable[[Any], bool]] = {
    "mem_mib": lambda value: _is_count(value) and value < 2**43,
    **dict.fromkeys(("libvirt", "qemu", "accel", "name", "desc", "guest_cmdline"), _is_text),
    "flags": _is_count,
    "flag_names": lambda value: isinstance(value, list) and all(map(_is_text, value)),
    "params": _is_table,
    **dict.fromkeys(("poll_ms", "hb_guest_downtime_ms", "qmp_stop_to_resume_ms"), _is_number),
    "hb_top_gaps_ms_at_s": _is_gaps,
    "guest_corrupted": lambda value: isinstance(value, bool),
}


def _meta(lines: list[Line], facts: dict[str, Any]) -> TraceMeta:
    start = next((line for line in lines if line["kind"] == "action" and line["name"] == "migrate_start"), {})
    memory_mib = facts.get("mem_mib")
    return TraceMeta(
        provenance="imported",
        origin=ORIGIN,
        domain=Domain(memory_bytes=memory_mib and memory_mib * MIB),
        host=Host(
            libvirt_version=facts.get("libvirt", ""),
            qemu_version=facts.get("qemu", ""),
            accelerator=facts.get("accel", ""),
        ),
        migration=Migration(
            flags=start.get("flags", facts.get("flags")),
            flag_names=tuple(facts.get("flag_names", ())),
            parameters=start.get("params", facts.get("params", {})),
            started_wall_ns=start.get("wall_ns"),
        ),
        cadence=Cadence(
            recorder="polling script", interval_ms=facts.get("poll_ms"), iteration_events=True, gaps=_gaps(lines)
        ),
        end=_end(lines),
        heartbeat=_heartbeat(facts),
        lab=_lab(facts),
        notes=_notes(lines, facts),
    )


def _gaps(lines: list[Line]) -> tuple[tuple[int, int], ...]:
    """From the first closed connection to the moment it was opened again."""
    gaps, closed = [], None
    for line in lines:
        if line["kind"] == "conn_closed" and closed is None:
            closed = line["t_mono_ns"]
        elif line["kind"] == "reopened" and closed is not None:
            gaps.append((closed, line["t_mono_ns"]))
            closed = None
    return tuple(gaps)


def _end(lines: list[Line]) -> End:
    completed = next((x["params"] for x in lines if x["kind"] == "event" and x["event"] == "job_completed"), None)
    result: dict[str, Any] = next((x["result"] for x in lines if x["kind"] == "migrate_return"), {})
    error = result.get("error") or {}
    told = {"error_code": error.get("code"), "error_text": error.get("msg", "")}
    if completed is not None:
        return End(outcome="completed", evidence="job-completed event", completed=completed, completed_from="event")
    if any(x["kind"] == "stats" and x["stats"].get("type") == JOB_CANCELLED for x in lines):
        return End(outcome="cancelled", evidence="job type cancelled", **told)
    if error:
        outcome = "cancelled" if error["code"] == _OPERATION_ABORTED else "failed"
        return End(outcome=outcome, evidence="the migrate call's error", **told)
    return End(outcome="lost", evidence="the recording ends before the migration does")


def _heartbeat(facts: dict[str, Any]) -> Heartbeat | None:
    gaps = facts.get("hb_top_gaps_ms_at_s")
    if not gaps:
        return None
    told = re.search(r"(?:^|\s)hb_ms=(\d{1,9}(?:\.\d{1,9})?)(?:\s|$)", facts.get("guest_cmdline", ""), re.ASCII)
    return Heartbeat(
        interval_ms=float(told[1] if told else 10),
        downtime_ms=facts.get("hb_guest_downtime_ms"),
        largest_gap_ms=max(gap[0] for gap in gaps),
    )


def _lab(facts: dict[str, Any]) -> Lab | None:
    if "desc" not in facts:
        return None
    return Lab(
        scenario=facts.get("name", ""),
        description=facts["desc"],
        guest={"arguments": facts.get("guest_cmdline", "")},
        guest_corrupted=facts.get("guest_corrupted"),
    )


def _notes(lines: list[Line], facts: dict[str, Any]) -> dict[str, Any]:
    """What does not fit a row of the source host: the destination's events, and how many lines were left out."""
    far = [
        [line["t_mono_ns"], line["ev"], line["detail"]]
        for line in lines
        if line["kind"] == "event" and line["event"] == "lifecycle" and line["side"] == "dst"
    ]
    kept = {"stats", "stats_error", "action", "action_done", "migrate_return", "conn_closed", "reopened"}
    skipped = collections.Counter(
        "qmp event" if line["kind"] == "event" else line["kind"]
        for line in lines
        if line["kind"] not in kept | {"event"} or line.get("event") == "qmp"
    )
    stopped_ms = facts.get("qmp_stop_to_resume_ms")
    notes = {"destination_events": far, "skipped_lines": dict(skipped), "qemu_stop_to_resume_ms": stopped_ms}
    return {key: value for key, value in notes.items() if value}

"""`migkit import`: logs and metrics that other tools wrote become traces."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migkit.errors import MigkitError
from migkit.units import format_bytes, format_ms, format_s, one_line

if TYPE_CHECKING:
    from migkit.capture.logs.formats import Importer
    from migkit.trace import Trace

# What a person is likely to ask of a trace next.
_LEVELS = {"exact": "answers exactly", "approximate": "answers approximately", "no": "cannot answer"}
# Of a line that says what was left out, with the place where.
_LONGEST, _MOST_LISTED = 500, 20
_ASKED = ("kubevirt-1.8", "kubevirt-1.9-stall", "kubevirt-main-tuning")


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb to the parser."""
    parser = verbs.add_parser("import", help="turn logs and metrics of other tools into traces", description=__doc__)
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="a log, a folder of logs, .gz, .xz or tar of them, or - (stdin)",
    )
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder to write the traces into")
    parser.add_argument("--format", metavar="NAME", help="what the files are (default: told from what they hold)")
    parser.add_argument(
        "--kubevirt-version", metavar="VERSION", help="of what wrote them, e.g. 1.1, where units depend on it"
    )
    parser.add_argument(
        "--vmi", action="append", default=[], metavar="FILE",
        help="VirtualMachineInstance or VirtualMachineInstanceMigration objects in YAML or JSON: memory, options, "
        "result; may be given several times",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="overwrite traces that exist")
    parser.add_argument("--json", action="store_true", help="one JSON object a trace, a line each")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Writes the traces, and says of each what it is worth; 1 when something could not be read, all else is imported
    nevertheless."""
    from migkit.capture.logs.formats import Importer, as_trace

    folder = _folder(arguments.output)
    importer = Importer(
        arguments.files, log_format=arguments.format, version=arguments.kubevirt_version, manifests=arguments.vmi
    )
    names: set[str] = set()
    for found in importer.imported():
        trace = as_trace(found)
        path = trace.save(folder / f"{_unused(trace.name, names)}.parquet", force=arguments.force)
        print(_as_json(trace, path) if arguments.json else _told(trace, path), flush=True)
    _tell_rest(importer)
    if not names:
        raise MigkitError(_nothing(importer))
    return 1 if importer.losses.unreadable or importer.losses.damaged else 0


def _folder(output: str) -> Path:
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MigkitError(f"{folder}: cannot be made a folder ({error.strerror})") from None
    return folder


def _unused(name: str, names: set[str]) -> str:
    """Two migrations of one guest may begin in the same second."""
    chosen, number = name, 2
    while chosen in names:
        chosen, number = f"{name}-{number}", number + 1
    names.add(chosen)
    return chosen


def _told(trace: Trace, path: Path) -> str:
    """What a trace is, what was inferred, which policies it can answer, what was left out."""
    lines = [f"{path}: {_facts(trace)}"]
    lines += [f"  {one_line(words, _LONGEST)}" for words in trace.meta.notes.get("said", ())]
    if _without_memory(trace):
        lines.append("  the guest's memory is unknown: deadlines want --data-size-gb, or its VMI here (--vmi)")
    answered = _answers(trace, size_known=_without_memory(trace))
    lines += [f"  {_LEVELS[level]} {names}" + (f": {why}" if why else "") for names, level, why in answered]
    skipped = trace.meta.notes.get("skipped_lines", {})
    if skipped:
        lines.append("  left out: " + _listed(f"{one_line(reason)} ({count})" for reason, count in skipped.items()))
    return "\n".join(lines)


def _listed(words: Iterable[str]) -> str:
    """What a file makes up as it likes ends somewhere."""
    known = list(words)
    more = f" and {len(known) - _MOST_LISTED} more" if len(known) > _MOST_LISTED else ""
    return ", ".join(known[:_MOST_LISTED]) + more


def _facts(trace: Trace) -> str:
    from migkit.fidelity import interval_ms

    meta, cadence = trace.meta, trace.meta.cadence
    samples = int(trace.active.sum())
    every = f" every {format_ms(interval_ms(trace))}" if samples > 1 else ""
    rounded = f", whole {format_bytes(cadence.resolution_bytes).removeprefix('1 ')}" if cadence.resolution_bytes else ""
    length = f" in {format_s(float(trace.t_s[-1]))}" if samples else ""
    error = f" ({one_line(meta.end.error_text)})" if meta.end.error_text else ""
    counted = f"{samples} sample" if samples == 1 else f"{samples} samples"
    return f"{meta.end.outcome}{error}; {counted}{every}{rounded}{length}; {meta.origin}"


def _without_memory(trace: Trace) -> bool:
    from migkit.fidelity import counted_memory_bytes

    return trace.meta.domain.memory_bytes is None and counted_memory_bytes(trace) is None


def _answers(trace: Trace, *, size_known: bool = False) -> list[tuple[str, str, str]]:
    """Policy, level, reason: policies with the same answer share a line. `size_known`: of a data size that will be
    told, and with it the deadline."""
    from migkit.fidelity import answers, samples_answer
    from migkit.policies import policy

    grouped: dict[tuple[str, str], list[str]] = {}
    for name in _ASKED:
        one = policy(name)
        found = samples_answer(trace, one, size_known=True) if size_known else answers(trace, one)
        grouped.setdefault((found.level, found.why), []).append(name)
    return [(", ".join(names), level, why) for (level, why), names in grouped.items()]


def _as_json(trace: Trace, path: Path) -> str:
    told: dict[str, Any] = {
        "path": str(path),
        "outcome": trace.meta.end.outcome,
        "rows": len(trace.samples),
        "samples": int(trace.active.sum()),
        "answers": {name: level for names, level, _ in _answers(trace) for name in names.split(", ")},
        "meta": json.loads(trace.meta.to_json()),
    }
    return json.dumps(told)


def _tell_rest(importer: Importer) -> None:
    """On stderr: what could not be read, the lines that belong to no migration, the files of no known format."""
    for line in (*importer.losses.unreadable, *importer.losses.damaged):
        print(f"migkit: {one_line(line, _LONGEST)}", file=sys.stderr)
    if importer.skipped:
        words = _listed(f"{one_line(reason)}: {count}" for reason, count in sorted(importer.skipped.items()))
        print(f"migkit: lines that belong to no migration: {words}", file=sys.stderr)
    if importer.unread:
        first, more = one_line(importer.unread[0], _LONGEST), len(importer.unread) - 1
        others = f" and {more} more" if more else ""
        print(f"migkit: files of no known format were passed over: {first}{others}", file=sys.stderr)


def _nothing(importer: Importer) -> str:
    from migkit.capture.logs.formats import FORMATS

    if importer.read:
        place, name = importer.read[0]
        return f"{one_line(place, _LONGEST)} (format {name}) tells of no migration with statistics"
    if not importer.unread:
        return "nothing that was given could be read"
    known = ", ".join(f"{name} ({each.ORIGIN})" for name, each in FORMATS.items())
    return f"no file is of a known format; --format says which of them it is: {known}"

"""`migkit import`: logs and metrics that other tools wrote become traces."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migkit.errors import MigkitError
from migkit.units import format_bytes, format_ms, format_s

if TYPE_CHECKING:
    from migkit.capture.logs.formats import Importer
    from migkit.trace import Trace

# What a person is likely to ask of a trace next.
_LEVELS = {"exact": "answers exactly", "approximate": "answers approximately", "no": "cannot answer"}
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
    """Writes the traces, and says of each what it is worth."""
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
    return 0


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
    lines += [f"  {words}" for words in trace.meta.notes.get("said", ())]
    if _without_memory(trace):
        lines.append("  the guest's memory is unknown: deadlines want --data-size-gb, or its VMI here (--vmi)")
    answered = _answers(trace, size_known=_without_memory(trace))
    lines += [f"  {_LEVELS[level]} {names}" + (f": {why}" if why else "") for names, level, why in answered]
    skipped = trace.meta.notes.get("skipped_lines", {})
    if skipped:
        lines.append("  left out: " + ", ".join(f"{reason} ({count})" for reason, count in skipped.items()))
    return "\n".join(lines)


def _facts(trace: Trace) -> str:
    from migkit.fidelity import interval_ms

    meta, cadence = trace.meta, trace.meta.cadence
    samples = int(trace.active.sum())
    every = f" every {format_ms(interval_ms(trace))}" if samples > 1 else ""
    rounded = f", whole {format_bytes(cadence.resolution_bytes).removeprefix('1 ')}" if cadence.resolution_bytes else ""
    length = f" in {format_s(float(trace.t_s[-1]))}" if samples else ""
    error = f" ({meta.end.error_text})" if meta.end.error_text else ""
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
    """On stderr: the lines that belong to no migration, the files that are of no known format."""
    if importer.skipped:
        words = ", ".join(f"{reason}: {count}" for reason, count in sorted(importer.skipped.items()))
        print(f"migkit: lines that belong to no migration: {words}", file=sys.stderr)
    if importer.unread:
        first, more = importer.unread[0], len(importer.unread) - 1
        others = f" and {more} more" if more else ""
        print(f"migkit: files of no known format were passed over: {first}{others}", file=sys.stderr)


def _nothing(importer: Importer) -> str:
    from migkit.capture.logs.formats import FORMATS

    if importer.read:
        return f"{importer.read[0][0]} (format {importer.read[0][1]}) tells of no migration with statistics"
    known = ", ".join(f"{name} ({each.ORIGIN})" for name, each in FORMATS.items())
    return f"no file is of a known format; --format says which of them it is: {known}"

"""The foreign formats, and how files of them become traces."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from migkit.capture.logs import files, jsonl, kubevirt, nova, prometheus, qmp, vdsm, virsh
from migkit.capture.logs.base import Context, Format, Imported, Line, Row, fits
from migkit.capture.logs.manifests import Manifests
from migkit.errors import MigkitError, unknown
from migkit.meta import TraceMeta
from migkit.policies.versions import VERSIONS
from migkit.schema import LONGEST_MS
from migkit.trace import Trace
from migkit.units import NS_PER_MS

# Looked at in this order: the first that knows a file's beginning reads it.
FORMATS: Mapping[str, Format] = {
    "jsonl": jsonl,
    "prometheus": prometheus,
    "kubevirt": kubevirt,
    "nova": nova,
    "vdsm": vdsm,
    "qmp": qmp,
    "virsh": virsh,
}

# Versions whose logs and metrics are known, though their rules are not.
_BEFORE_POLICIES = ("0.53", "0.54", "0.55", "0.56", "0.57", "0.58")

Place = str | os.PathLike[str]


class Importer:
    """Reads foreign files into traces, one after the other.

    Attributes: `skipped`, reason -> lines that belong to no migration; `losses`, what could not be read; `unread`,
    files of no known format; `read`, files by format. All of them grow while `imported` is walked.
    """

    def __init__(
        self, places: Sequence[Place], *, log_format: str | None = None, version: str | None = None,
        manifests: Sequence[Place] = (),
    ) -> None:  # fmt: skip
        if log_format is not None and log_format not in FORMATS:
            raise unknown("format", log_format, FORMATS)
        _check_version(version)
        self._places, self._format = places, log_format
        self.skipped: Counter[str] = Counter()
        self.losses = files.Losses()
        self.unread: list[str] = []
        self.read: list[tuple[str, str]] = []
        self._context = Context(version=version, manifests=Manifests.read(manifests), skipped=self.skipped)

    def imported(self) -> Iterator[Imported]:
        """One item a migration, in the order in which they are found."""
        untold = files.Losses()  # They come again below.
        for source in files.sources([place for place in self._places if files.readable_twice(place)], untold):
            self._context.manifests.add_found(source.place, files.blocks(source, untold))
        for name, group in itertools.groupby(self._known(), key=lambda known: known[0]):
            lines = itertools.chain.from_iterable(each for _, each in group)
            yield from FORMATS[name].read(lines, self._context)

    def _known(self) -> Iterator[tuple[str, Iterator[Line]]]:
        """Format and lines of every file that is of one."""
        # Else the objects are found as they come; logs side by side are put together when all of them are read.
        twice = all(map(files.readable_twice, self._places))
        for source in files.sources(self._places, self.losses):
            with files.Lookahead(source, self.losses) as looked:
                name = self._format or _detected(looked)
                if name is None:
                    if not twice:
                        self._context.manifests.add_found(source.place, looked.blocks())
                    self.unread.append(source.place)
                    continue
                self.read.append((source.place, name))
                split = files.Split(source.place, FORMATS[name].NEEDLES, self.skipped, self.losses)
                yield name, split.lines(looked.blocks())


def _detected(looked: files.Lookahead) -> str | None:
    """The format. A log may go on for long before it says something of a migration."""
    before = b""
    for block in looked.ahead():
        name = next((name for name, known in FORMATS.items() if known.matches(before[-4096:] + block)), None)
        if name is not None:
            return name
        before = block
    return None


def _check_version(version: str | None) -> None:
    """A version with or without its patch level. Raises UsageError for one that never was, or has no such logs."""
    short = re.fullmatch(r"v?(\d+\.\d+)(?:\.\d+)?", version or "")
    known = (*VERSIONS, *_BEFORE_POLICIES)
    if version is not None and version != "main" and (short is None or short[1] not in known):
        raise unknown("KubeVirt version", version, known)


def import_logs(
    *places: Place, log_format: str | None = None, version: str | None = None, manifests: Sequence[Place] = ()
) -> Iterator[Trace]:
    """Traces out of the logs and metrics that other tools wrote.

    Parameters: `places`, files, folders, compressed files, tar archives, "-" for standard input; `log_format`, a key
    of FORMATS where it is not to be told from the content; `version` of KubeVirt that wrote them, e.g. "1.1";
    `manifests`, files of VirtualMachineInstance and VirtualMachineInstanceMigration objects, which say what a log
    does not. Those found among `places` are used too. One trace a migration, made when it is asked for.
    Raises MigkitError for a place that cannot be read, UsageError for an unknown format or version. Damaged files are
    read as far as they go.
    """
    importer = Importer(places, log_format=log_format, version=version, manifests=manifests)
    return _all(importer)


def _all(importer: Importer) -> Iterator[Trace]:
    for found in importer.imported():
        yield as_trace(found)
    if importer.losses.unreadable:
        raise MigkitError(importer.losses.unreadable[0])


def read_log(path: Place, **options: Any) -> list[Trace]:
    """All traces of one log, in time order; options as for `import_logs`.

    Raises MigkitError when it tells of no migration.

    >>> import migkit as mk
    >>> [trace.meta.end.outcome for trace in mk.read_log("tests/capture/logs/raw/stall_link.jsonl.gz")]
    ['completed']
    """
    traces = list(import_logs(path, **options))
    if not traces:
        raise MigkitError(f"{path}: tells of no migration in a format that is known ({', '.join(FORMATS)})")
    return traces


def as_trace(found: Imported) -> Trace:
    """The trace of an imported migration; what was skipped and said of it goes into its notes."""
    notes = {**found.meta.notes}
    fitting = [row for row in found.rows if fits(row)]
    rows = _near(fitting)
    skipped = Counter(notes.get("skipped_lines", {})) + found.skipped
    left_out = {"row with a value that no column holds": len(found.rows) - len(fitting),
                "row at a time far from the migration": len(fitting) - len(rows)}  # fmt: skip
    skipped.update({reason: count for reason, count in left_out.items() if count})
    if skipped:
        notes["skipped_lines"] = dict(skipped)
    if found.said:
        notes["said"] = list(found.said)
    meta = dataclasses.replace(found.meta, notes=notes)
    if "\\ud" in (text := meta.to_json()):
        meta = TraceMeta.from_json(text)
    return Trace.from_rows(rows, meta, found.name)


def _near(rows: list[Row]) -> list[Row]:
    """The rows within what a migration can last of the one in the middle: a damaged time puts one anywhere."""
    if not rows:
        return rows
    middle_ns = sorted(row["mono_ns"] for row in rows)[len(rows) // 2]
    return [row for row in rows if abs(row["mono_ns"] - middle_ns) <= LONGEST_MS * NS_PER_MS // 2]

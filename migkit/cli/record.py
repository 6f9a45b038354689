"""`migkit record`: a live migration into a trace."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migkit.errors import MigkitError, UsageError
from migkit.units import format_ms

if TYPE_CHECKING:
    from migkit.capture.journal import Recording


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb to the parser."""
    parser = verbs.add_parser(
        "record", help="record a live migration", description="Record a live migration from its source host.",
        epilog="Needs a read-only connection. Exits 0 once a migration is recorded, however it ended. Ctrl-C keeps "
        "what there is and exits 1.",
    )  # fmt: skip
    parser.add_argument("domain", nargs="?", metavar="DOMAIN", help="name or uuid of the guest on its source host")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the trace to write (Parquet)")
    parser.add_argument(
        "-c", "--connect", metavar="URI", default=os.environ.get("LIBVIRT_DEFAULT_URI", "qemu:///system"),
        help="libvirt of the source host, or fake:///SCENARIO?seed=N (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--interval", metavar="MS", type=float, default=100, help="between polls (default: 100)")
    parser.add_argument("--no-wait", action="store_true", help="there must be a migration; do not wait for one")
    add_via_options(parser)
    parser.add_argument(
        "--destination", metavar="URI", help="libvirt of the destination, asked for the final stats where needed"
    )
    parser.add_argument("--mask-names", action="store_true", help="leave out names of guest, hosts and storage")
    parser.add_argument(
        "--from-jsonl", metavar="FILE", nargs="+", help="convert raw recordings of a polling script; -o may be a folder"
    )
    parser.add_argument("--force", action="store_true", help="overwrite what exists")
    parser.add_argument("--json", action="store_true", help="print the result as a JSON object")
    parser.set_defaults(handler=run)


def add_via_options(parser: argparse.ArgumentParser) -> None:
    """--via and what goes with it."""
    parser.add_argument(
        "--via", metavar="PREFIX",
        help="reach libvirt by a command, e.g. 'kubectl exec -i -n NS POD -c compute --' or 'ssh host'",
    )  # fmt: skip
    parser.add_argument(
        "--via-socket", metavar="PATH", help="behind --via, relay to this socket with nc or socat, not virt-ssh-helper"
    )


def run(arguments: argparse.Namespace) -> int:
    """Records, or converts, and says on stdout what came of it."""
    before = _inode(arguments.output)
    try:
        return _convert(arguments) if arguments.from_jsonl else _record(arguments)
    except KeyboardInterrupt:
        # While a recording runs Ctrl-C ends it in order; this one came before that, or after.
        new = _inode(arguments.output) != before
        raise MigkitError(
            f"interrupted: {f'{arguments.output} is written' if new else 'nothing was recorded'}"
        ) from None


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None


def _record(arguments: argparse.Namespace) -> int:
    if arguments.domain is None:
        raise UsageError("record needs a DOMAIN, or --from-jsonl FILE")
    recording = _recorded(arguments)
    print(described(recording, as_json=arguments.json), flush=True)
    if recording.meta.end.outcome == "interrupted":
        raise MigkitError(f"interrupted: {recording.path} keeps the {recording.samples} samples until then")
    if recording.stopped:
        raise MigkitError(f"interrupted: the migration had ended, {recording.path} is written")
    return 0


def _recorded(arguments: argparse.Namespace) -> Recording:
    from migkit.capture.recorder import record

    return record(
        arguments.domain,
        output=arguments.output,
        uri=arguments.connect,
        interval_ms=arguments.interval,
        wait=not arguments.no_wait,
        destination=arguments.destination,
        via=arguments.via,
        via_socket=arguments.via_socket,
        mask_names=arguments.mask_names,
        force=arguments.force,
        on_ready=None if arguments.no_wait else lambda: _say(f"waiting for a migration of {arguments.domain} ..."),
    )


def described(recording: Recording, *, as_json: bool) -> str:
    """One line about a recording, for a person or a program."""
    end = recording.meta.end
    downtime_ms = (end.completed or {}).get("downtime")
    if as_json:
        known: dict[str, Any] = {
            "path": str(recording.path),
            "outcome": end.outcome,
            "evidence": end.evidence,
            "error": end.error_text or None,
            "samples": recording.samples,
            "rows": recording.rows,
            "iterations": recording.iterations,
            "duration_ms": recording.duration_ms,
            "downtime_ms": downtime_ms,
            "skipped_bytes": recording.skipped_bytes,
            "damaged_journal": None if recording.damaged_journal is None else str(recording.damaged_journal),
        }
        return json.dumps(known)
    return f"{recording.path}: {in_words(recording)}"


def in_words(recording: Recording) -> str:
    """What came of a recording, without its path."""
    end = recording.meta.end
    downtime_ms = (end.completed or {}).get("downtime")
    words = [end.outcome + (f" ({end.error_text})" if end.error_text else ""), f"{recording.samples} samples"]
    if recording.samples == 0:
        words[-1] += " (no sample of the running migration was taken)"
    if recording.duration_ms is not None:
        words.append(f"duration {format_ms(recording.duration_ms)}")
    if downtime_ms is not None:
        words.append(f"downtime {format_ms(downtime_ms)}")
    return ", ".join(words) + _damage(recording)


def _damage(recording: Recording) -> str:
    if recording.skipped_bytes == 0:
        return ""
    told = f"; {recording.skipped_bytes} damaged bytes were skipped"
    return told if recording.damaged_journal is None else f"{told}, the journal is kept as {recording.damaged_journal}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _convert(arguments: argparse.Namespace) -> int:
    if arguments.domain is not None:
        raise UsageError("--from-jsonl converts files: leave out DOMAIN")
    target = Path(arguments.output)
    folder = len(arguments.from_jsonl) > 1 or target.is_dir() or str(arguments.output).endswith("/")
    if folder:
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MigkitError(f"{target}: cannot be made a folder ({error.strerror})") from None
    for number, file in enumerate(arguments.from_jsonl):
        try:
            print(_converted(file, target, folder=folder, arguments=arguments), flush=True)
        except KeyboardInterrupt:
            of = len(arguments.from_jsonl)
            raise MigkitError(f"interrupted: {number} of {of} files were converted, {file} perhaps") from None
    return 0


def _converted(file: str, target: Path, *, folder: bool, arguments: argparse.Namespace) -> str:
    from migkit.capture.logs import jsonl

    trace = jsonl.read_file(file)
    path = trace.save(target / f"{trace.name}.parquet" if folder else target, force=arguments.force)
    end = trace.meta.end
    told = {"path": str(path), "outcome": end.outcome, "rows": len(trace.samples)}
    return json.dumps(told) if arguments.json else f"{path}: {end.outcome}, {len(trace.samples)} rows"

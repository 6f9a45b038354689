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
    parser.add_argument(
        "--via", metavar="PREFIX",
        help="reach libvirt by a command, e.g. 'kubectl exec -i -n NS POD -c compute --' or 'ssh host'",
    )  # fmt: skip
    parser.add_argument(
        "--via-socket", metavar="PATH", help="behind --via, relay to this socket with nc or socat, not virt-ssh-helper"
    )
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


def run(arguments: argparse.Namespace) -> int:
    """Records, or converts, and says on stdout what came of it."""
    if arguments.from_jsonl:
        return _convert(arguments)
    if arguments.domain is None:
        raise UsageError("record needs a DOMAIN, or --from-jsonl FILE")
    from migkit.capture.recorder import record

    recording = record(
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
    print(described(recording, as_json=arguments.json))
    if recording.meta.end.outcome == "interrupted":
        raise MigkitError(f"interrupted: {recording.path} keeps the {recording.samples} samples until then")
    return 0


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
        }
        return json.dumps(known)
    words = [end.outcome + (f" ({end.error_text})" if end.error_text else ""), f"{recording.samples} samples"]
    if recording.duration_ms is not None:
        words.append(f"duration {format_ms(recording.duration_ms)}")
    if downtime_ms is not None:
        words.append(f"downtime {format_ms(downtime_ms)}")
    return f"{recording.path}: " + ", ".join(words)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _convert(arguments: argparse.Namespace) -> int:
    if arguments.domain is not None:
        raise UsageError("--from-jsonl converts files: leave out DOMAIN")
    from migkit.capture.logs import jsonl

    target = Path(arguments.output)
    folder = len(arguments.from_jsonl) > 1 or target.is_dir() or str(arguments.output).endswith("/")
    if folder:
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MigkitError(f"{target}: cannot be made a folder ({error.strerror})") from None
    for file in arguments.from_jsonl:
        trace = jsonl.read(file)
        path = trace.save(target / f"{trace.name}.parquet" if folder else target, force=arguments.force)
        end = trace.meta.end
        told = {"path": str(path), "outcome": end.outcome, "rows": len(trace.samples)}
        print(json.dumps(told) if arguments.json else f"{path}: {end.outcome}, {len(trace.samples)} rows")
    return 0

"""`migkit lab`: real live migrations on this machine, between two libvirt daemons."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from migkit.errors import UsageError
from migkit.units import format_ms, format_s

if TYPE_CHECKING:
    from migkit.lab.hosts import Lab
    from migkit.lab.run import Run


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb to the parser."""
    parser = verbs.add_parser("lab", help="real live migrations on this machine (root, libvirt, QEMU)",
                              description=__doc__)  # fmt: skip
    kinds = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--dir", metavar="DIR", type=Path,
                       help="the lab's folder (default: migkit-lab in $XDG_RUNTIME_DIR or /var/tmp)")  # fmt: skip
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--scenarios", metavar="FILE", type=Path, help="a TOML file of your own scenarios")
    up = kinds.add_parser("up", parents=[where], help="bring the two hosts up")
    up.set_defaults(handler=run_up)
    listing = kinds.add_parser("list", parents=[own], help="the scenarios: name, what it does, about how long")
    listing.set_defaults(handler=run_list)
    _add_record(kinds, [where, own])
    down = kinds.add_parser("down", parents=[where], help="take the lab down; leaves no process, namespace or mount")
    down.set_defaults(handler=run_down)


def _add_record(
    kinds: argparse._SubParsersAction[argparse.ArgumentParser], parents: list[argparse.ArgumentParser]
) -> None:
    record = kinds.add_parser("record", parents=parents, help="migrate a guest as a scenario says, and record it")
    record.add_argument("names", nargs="+", metavar="SCENARIO", help="one of `migkit lab list`, or all")
    record.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="folder of the traces")
    record.add_argument("--via", action="store_true", help="record through a command prefix, as into a KubeVirt pod")
    record.add_argument("--interval", metavar="MS", type=float, default=100, help="poll every MS ms (default: 100)")
    record.add_argument("--keep", action="store_true", help="leave the lab up afterwards")
    record.set_defaults(handler=run_record)


def run_up(arguments: argparse.Namespace) -> int:
    """Brings the lab up and prints where its hosts are."""
    lab = _up(arguments.dir)
    for host in lab.hosts:
        print(f"host {host.name}  {host.uri}  {' '.join(host.prefix)}")
    print(f"accelerator {lab.accelerator}")
    return 0


def run_down(arguments: argparse.Namespace) -> int:
    """Takes the lab down."""
    from migkit.lab import hosts

    hosts.down(arguments.dir)
    return 0


def run_list(arguments: argparse.Namespace) -> int:
    """Prints the scenarios."""
    from migkit.lab import scenario

    scenarios = scenario.load(arguments.scenarios)
    width = max(map(len, scenarios))
    for entry in scenarios.values():
        print(f"{entry.name.ljust(width)}  {entry.seconds:3.0f} s  {entry.description}")
    return 0


def run_record(arguments: argparse.Namespace) -> int:
    """Makes the migrations, one line each."""
    if arguments.interval < 1:
        raise UsageError(f"--interval {arguments.interval:g}: must be at least 1 ms")
    from migkit.lab import scenario

    scenarios = scenario.load(arguments.scenarios)
    names = list(scenarios) if arguments.names == ["all"] else arguments.names
    chosen = scenario.choose(scenarios, names)
    with _ended_by_sigterm(), _lab(arguments.dir, keep=arguments.keep) as lab:
        from migkit.lab.run import run

        for entry in chosen:
            if sys.stderr.isatty():
                print(f"{entry.name}: about {format_s(entry.seconds)} ...", file=sys.stderr)
            for made in run(entry, lab, arguments.output, via=arguments.via, interval_ms=arguments.interval):
                print(describe(made), flush=True)
    return 0


def describe(made: Run) -> str:
    """One line on a migration: how it ended, how long it took, what the guest felt, where the trace is."""
    trace = made.trace
    facts = trace.facts()
    line = f"{trace.name}: {facts['outcome']} after {facts['duration']}"
    beat = trace.meta.heartbeat
    if (reported := (trace.meta.end.completed or {}).get("downtime")) is not None:
        line += f", downtime {format_ms(reported)} reported"
    if beat is not None and beat.downtime_ms is not None:
        line += f", {format_ms(beat.downtime_ms)} by the guest's heartbeat"
    line += f" -> {made.path}"
    if made.guest_corrupted:
        line += " (the guest's memory came up corrupted: marked in the trace)"
    if made.missed:
        line += f" (ended before {', '.join(made.missed)})"
    return line


def _up(folder: Path | None) -> Lab:
    from migkit.lab import guest, hosts

    hosts.require_root()
    if (lab := hosts.find_lab(folder)) is not None:
        return lab
    return hosts.up(folder, accelerator=guest.accelerator(guest.image()))


@contextlib.contextmanager
def _lab(folder: Path | None, *, keep: bool) -> Iterator[Lab]:
    """The lab, brought up when it is not, and then taken down again unless `keep`."""
    from migkit.lab import control, hosts

    del control  # its import tells, before anything is started, whether libvirt's bindings are there
    was_up = hosts.find_lab(folder) is not None
    lab = _up(folder)
    try:
        yield lab
    finally:
        if not was_up and not keep:
            hosts.down(folder)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that the lab is taken down."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

"""`migkit lab`: real live migrations on this machine, between two libvirt daemons."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from migkit.errors import MigkitError, UsageError
from migkit.units import format_ms, format_s

if TYPE_CHECKING:
    from migkit.lab.campaign import Entry
    from migkit.lab.hosts import Lab
    from migkit.lab.lane import Result
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
    _add_campaign(kinds, [where, own])
    relabel = kinds.add_parser("relabel", parents=[own], help="write the scenarios' truth into traces recorded earlier")
    relabel.add_argument("traces", nargs="+", metavar="TRACE", help="a trace of the lab, or a folder of them")
    relabel.set_defaults(handler=run_relabel)
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
    record.add_argument("--seed", metavar="N", type=int, help="begin the guest's random numbers with N")
    record.add_argument("--note", metavar="KEY=VALUE", action="append", default=[], dest="notes",
                        help="a word of yours in the traces' metadata; may be repeated")  # fmt: skip
    record.add_argument("--keep", action="store_true", help="leave the lab up afterwards")
    record.set_defaults(handler=run_record)


def _add_campaign(
    kinds: argparse._SubParsersAction[argparse.ArgumentParser], parents: list[argparse.ArgumentParser]
) -> None:
    campaign = kinds.add_parser("campaign", parents=parents,
                                help="record a whole set; what is there already is not made again")  # fmt: skip
    campaign.add_argument("file", nargs="?", metavar="FILE", type=Path,
                          help="a TOML file of scenarios and repeats (default: migkit's own set)")  # fmt: skip
    campaign.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="folder of the traces")
    campaign.add_argument("--jobs", metavar="N", type=int, help="so many at a time, each in a lab of its own "
                          "(default: 2 where there are two processors)")  # fmt: skip
    campaign.add_argument("--repeats", metavar="N", type=int, help="so many of those for which FILE says nothing")
    campaign.set_defaults(handler=run_campaign)


def run_up(arguments: argparse.Namespace) -> int:
    """Brings the lab up and prints where its hosts are."""
    lab = _up(arguments.dir)
    for host in lab.hosts:
        print(f"host {host.name}  {host.uri}  {' '.join(host.prefix)}")
    print(f"accelerator {lab.accelerator}")
    return 0


def run_down(arguments: argparse.Namespace) -> int:
    """Takes the lab down, and tells of those of a campaign beside it."""
    from migkit.lab import hosts

    folder = arguments.dir or hosts.default_folder()
    hosts.down(folder)
    for other in sorted(folder.parent.glob(f"{folder.name}-[0-9]*")):
        if hosts.find_lab(other) is not None:
            print(f"{other} is up as well: migkit lab down --dir {other}", file=sys.stderr)
    return 0


def run_list(arguments: argparse.Namespace) -> int:
    """Prints the scenarios."""
    from migkit.lab import scenario

    scenarios = scenario.load(arguments.scenarios)
    width = max(map(len, scenarios))
    for entry in scenarios.values():
        print(f"{entry.name.ljust(width)}  {entry.seconds:3.0f} s  {entry.description}")
    return 0


def run_relabel(arguments: argparse.Namespace) -> int:
    """Brings the labels of traces in line with what their scenarios say now; a line for each that changed."""
    from migkit.dataset.places import found_files
    from migkit.lab import relabel, scenario

    scenarios, changed = scenario.load(arguments.scenarios), 0
    paths = [Path(found.place) for found in found_files(*arguments.traces)]
    for path in paths:
        if (label := relabel.relabel(path, scenarios)) is not None:
            print(f"{path}: {', '.join(f'{key} {value}' for key, value in label.items())}")
            changed += 1
    print(f"{len(paths)} traces, {changed} relabelled", file=sys.stderr)
    return 0


def run_record(arguments: argparse.Namespace) -> int:
    """Makes the migrations, one line each."""
    if arguments.interval < 1:
        raise UsageError(f"--interval {arguments.interval:g}: must be at least 1 ms")
    from migkit.lab import scenario

    notes = dict(_note(text) for text in arguments.notes)
    scenarios = scenario.load(arguments.scenarios)
    if arguments.seed is not None:
        scenarios = {name: scenario.seeded(entry, arguments.seed) for name, entry in scenarios.items()}
    names = list(scenarios) if arguments.names == ["all"] else arguments.names
    chosen = scenario.choose(scenarios, names)
    with _ended_by_sigterm(), _lab(arguments.dir, keep=arguments.keep) as lab:
        from migkit.lab.run import run

        for entry in chosen:
            if sys.stderr.isatty():
                print(f"{entry.name}: about {format_s(entry.seconds)} ...", file=sys.stderr)
            beside = scenarios[entry.beside] if entry.beside else None
            finished = run(entry, lab, arguments.output, via=arguments.via, interval_ms=arguments.interval,
                           beside=beside, notes=notes)  # fmt: skip
            for made in finished:
                print(describe(made), flush=True)
    return 0


def run_campaign(arguments: argparse.Namespace) -> int:
    """Makes what is not there yet, a line a migration; 1 when any failed."""
    for option, value in (("--jobs", arguments.jobs), ("--repeats", arguments.repeats)):
        if value is not None and value < 1:
            raise UsageError(f"{option} {value}: must be at least 1")
    from migkit.lab import campaign, lane, scenario

    entries = campaign.load(arguments.file, scenario.load(arguments.scenarios), repeats=arguments.repeats)
    todo = _todo(entries, arguments.output)
    if not todo:
        return 0
    file = arguments.file or campaign.BUNDLED
    jobs = min(arguments.jobs or min(2, os.cpu_count() or 1), len(todo))
    folders = _lab_folders(arguments.dir, jobs)
    lane.clear(arguments.output)
    lanes = [
        lane.Lane(folder, arguments.output, campaign=file.stem, scenarios=arguments.scenarios) for folder in folders
    ]
    with _ended_by_sigterm():
        try:
            failed = _show(lane.make(todo, lanes), len(todo))
        finally:
            for one in lanes:
                one.close()
    return 1 if failed else 0


def _todo(entries: list[Entry], output: Path) -> list[Entry]:
    """What is to be made, after a line that says so; the machine has been looked at, so that nothing fails later."""
    from migkit.lab import campaign, control, guest, hosts

    del control  # its import tells whether libvirt's bindings are there
    todo = campaign.missing(entries, output)
    seconds = sum(entry.scenario.seconds for entry in todo)
    print(f"{len(entries)} migrations, {len(entries) - len(todo)} there already, {len(todo)} to make"
          + (f": about {format_s(seconds)} of migrating" if todo else ""), file=sys.stderr)  # fmt: skip
    if todo:
        hosts.require_root()
        guest.accelerator(guest.image())
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MigkitError(f"{output}: cannot be made ({error.strerror or error})") from None
    return todo


def _lab_folders(base: Path | None, jobs: int) -> list[Path]:
    """A folder a lab: DIR-1, DIR-2. Raises MigkitError when somebody else's lab is up there."""
    from migkit.lab import hosts

    base = base or hosts.default_folder()
    folders = [base.with_name(f"{base.name}-{number}") for number in range(1, jobs + 1)]
    for folder in folders:
        if hosts.find_lab(folder) is not None:
            raise MigkitError(f"{folder}: a lab is up there already; migkit lab down --dir {folder} takes it down")
    return folders


def _show(results: Generator[Result, None, None], total: int) -> int:
    """A line a migration beside a progress bar; returns how many failed."""
    from tqdm.auto import tqdm

    failed = 0
    with contextlib.closing(results), tqdm(total=total, unit="migration", disable=None) as bar:
        for result in results:
            failed += result.failed
            line = f"{result.entry.name}: failed ({result.line})" if result.failed else result.line
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()
            bar.update()
    return failed


def _note(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise UsageError(f"--note {text}: must be KEY=VALUE")
    return key, value


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

"""What `migkit migrate` and `migkit shadow` share: options, the view while it runs, the words at its end."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from migkit.cli.policies import has_vfio, told_origins
from migkit.errors import MigkitError, RefusedError
from migkit.units import format_ms

if TYPE_CHECKING:
    from migkit.cli.view import View
    from migkit.drivers.beside import Beside
    from migkit.drivers.live import Live
    from migkit.manifest import Configuration


def add_live_options(parser: argparse.ArgumentParser) -> None:
    """The policy, the connections, the trace."""
    parser.add_argument(
        "--policy", action="append", default=[], metavar="NAME[,OPTION=VALUE...]", help="e.g. kubevirt-1.9-stall"
    )
    parser.add_argument(
        "--config", action="append", default=[], metavar="FILE",
        help="options from a KubeVirt, HyperConverged, MigrationPolicy or VMI object in YAML or JSON",
    )  # fmt: skip
    parser.add_argument(
        "--set", action="append", default=[], metavar="OPTION=VALUE", help="an option over all others; also has_vfio"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="the trace to write (default: none is kept)")
    parser.add_argument("--force", action="store_true", help="overwrite what exists")
    parser.add_argument(
        "-c", "--connect", metavar="URI", default=os.environ.get("LIBVIRT_DEFAULT_URI", "qemu:///system"),
        help="libvirt of the source host, or fake:///SCENARIO?seed=N (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--destination", metavar="URI", help="libvirt of the destination as it is reached from here, asked at the end"
    )
    parser.add_argument(
        "--data-size-gb", type=int, metavar="N", help="the size behind the completion deadline (default: the guest's)"
    )
    parser.add_argument("--interval", metavar="MS", type=float, default=100, help="between the trace's polls")
    parser.add_argument("--mask-names", action="store_true", help="leave names of guest, hosts and storage out of it")
    parser.add_argument("--json", action="store_true", help="a JSON object a line: begun, decision, progress, end")


Prepared = tuple["Configuration", Callable[..., "Live"]]


def watched(arguments: argparse.Namespace, prepare: Callable[[], Prepared]) -> int:
    """Lives through the migration with a view of it, then says how it ended. 0 when it completed.

    `prepare` gives the configuration, and what is called to live through the migration."""
    views: list[View] = []
    try:
        configuration, go = prepare()
        found = _lived_through(arguments, configuration, go, views)
    except (MigkitError, KeyboardInterrupt) as error:
        if arguments.json:
            _print(_broken_off(error, may_run=any(one.beside.may_run for one in views)))
        raise
    return _finished(arguments, found)


def _lived_through(
    arguments: argparse.Namespace, configuration: Configuration, go: Callable[..., Live], views: list[View]
) -> Live:
    """The migration; its view is put into `views` before anything happens."""
    from migkit.cli import view

    def watch(beside: Beside) -> None:
        views.append(view.make(beside, as_json=arguments.json))
        beside.view = views[0]
        if not arguments.json and not beside.starts_it:
            print(f"waiting for a migration of {arguments.domain} ...", file=sys.stderr, flush=True)

    if arguments.config and not arguments.json:
        print(told_origins(configuration), file=sys.stderr)
    try:
        return go(
            uri=arguments.connect, destination=arguments.destination, output=arguments.output, force=arguments.force,
            interval_ms=arguments.interval, mask_names=arguments.mask_names, data_size_gb=arguments.data_size_gb,
            has_vfio=has_vfio(arguments), watch=watch,
        )  # fmt: skip
    finally:
        for one in views:
            with contextlib.suppress(OSError):
                one.close()


def _broken_off(error: BaseException, *, may_run: bool) -> str:
    """The last line for a program where there is no end to tell of: nothing began, or nobody knows how it went on."""
    from migkit.failures import readable

    code, text = (error.error_code, error.error_text) if isinstance(error, RefusedError) else (None, None)
    failure = None if text is None else dataclasses.asdict(readable(code, text))
    return json.dumps({
        "event": "end", "outcome": "lost" if may_run else "not-begun", "error_code": code, "error_text": text,
        "decisions": 0, "path": None, "problem": str(error) or "stopped", "failure": failure,
    })  # fmt: skip


def _print(text: str) -> None:
    """Whether or not anybody reads it (`| head -1`): the exit code tells how the migration ended."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _finished(arguments: argparse.Namespace, found: Live) -> int:
    end = found.trace.meta.end
    _print(_as_json(found) if arguments.json else _told(arguments.domain, found))
    if found.problem:
        raise MigkitError(found.problem)
    if end.outcome != "completed":
        raise MigkitError(f"{arguments.domain}: {_why(found)}")
    return 0


def _why(found: Live) -> str:
    """One line on a migration that did not complete."""
    from migkit.failures import failure_of, in_a_line

    end = found.trace.meta.end
    if end.outcome == "cancelled" and (who := _cancelled_by(found)):
        return f"the migration was cancelled {who}" + (f" [{end.error_text}]" if end.error_text else "")
    words = {
        "cancelled": "the migration was ",
        "failed": "the migration ",
        "postcopy-failed": "",
        "lost": "",
        "interrupted": "stopped watching, the migration is left to libvirt",
    }
    failure = failure_of(end)
    if end.outcome == "failed" and failure is not None and failure.what != "failed":
        words["failed"] += "failed: "
    return words[end.outcome] + (in_a_line(failure) if failure is not None else "")


def _cancelled_by(found: Live) -> str:
    """Who has cancelled it, as far as it was done from here."""
    decided = found.decisions[(found.decisions["action"] == "abort") & found.decisions["succeeded"]]
    if found.acted and len(decided):
        return f"by the policy: {decided['reason'].iloc[0]}"
    done = found.trace.samples["action"] == "abort"
    return "by Ctrl-C" if done.fillna(False).any() else ""


def _told(name: str, found: Live) -> str:
    """How it ended, what it took, what was decided, where the guest is now."""
    trace = found.trace
    facts, downtime_ms = trace.facts(), (trace.meta.end.completed or {}).get("downtime")
    line = f"{name}: {trace.meta.end.outcome} after {facts['duration']}"
    line += f", downtime {format_ms(downtime_ms)}" if downtime_ms is not None else ""
    count = len(found.decisions)
    done = "done" if found.acted else "that it would have made"
    line += f", {count} decision{'' if count == 1 else 's'} {done} by {found.policy.name}"
    line += f" -> {found.path}" if found.path else ""
    failure, more = trace.meta.end.failure, []
    if trace.meta.end.outcome == "failed" and failure is not None and failure.do:
        more = [f"-> {failure.do}"]
    return "\n".join([line, *(found.sides.lines() if found.sides else []), *more])


def _as_json(found: Live) -> str:
    end, sides = found.trace.meta.end, found.sides
    return json.dumps({
        "event": "end", "outcome": end.outcome, "evidence": end.evidence, "error_code": end.error_code,
        "error_text": end.error_text or None, "downtime_ms": (end.completed or {}).get("downtime"),
        "duration_ms": (end.completed or {}).get("time_elapsed"), "rule": found.result, "acted": found.acted,
        "decisions": len(found.decisions), "path": None if found.path is None else str(found.path),
        "problem": found.problem or None, "source": sides and sides.source, "destination": sides and sides.destination,
        "failure": end.failure and dataclasses.asdict(end.failure), "advice": sides and list(sides.advice),
    })  # fmt: skip

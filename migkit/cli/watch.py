"""`migkit watch`: every migration on a host into a trace of its own."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from migkit.cli.looked_on import kept, shadows_in_words
from migkit.cli.record import described, in_words
from migkit.errors import UsageError
from migkit.units import NS_PER_S

if TYPE_CHECKING:
    from migkit.capture.journal import Annotate
    from migkit.capture.watch import Ended
    from migkit.capture.watch_folder import Keep

_DAY_S = 24 * 3600


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb to the parser."""
    parser = verbs.add_parser(
        "watch", help="record every live migration on a host",
        description="Record every live migration out of a host, many at once, until Ctrl-C or SIGTERM. One line a "
        "migration on stdout, once its trace is written; anything else on stderr.",
        epilog="Needs a read-only connection. A migration is noticed as its memory begins to be copied; the copying of "
        "disks before that within a second, on hosts of more than 20 running domains within 50 ms a domain. The end "
        "of the watcher ends what is being recorded, outcome interrupted; what a killed one leaves is recovered when "
        "the next one starts. A restart of the daemon is survived and a gap in the traces. SIGHUP is ignored.",
    )  # fmt: skip
    parser.add_argument("-o", "--output", metavar="DIR", required=True,
                        help="folder of the traces, DOMAIN-YYYYMMDDThhmmssZ.parquet; one watcher's alone")  # fmt: skip
    parser.add_argument(
        "-c", "--connect", metavar="URI", default=os.environ.get("LIBVIRT_DEFAULT_URI", "qemu:///system"),
        help="libvirt of the host, or fake:///SCENARIO?domains=N (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--interval", metavar="MS", type=float, default=100, help="between polls (default: 100)")
    parser.add_argument("--keep-bytes", metavar="SIZE", help="remove the oldest traces beyond this, e.g. 2Gi")
    parser.add_argument("--keep-days", metavar="N", type=float,
                        help="remove traces older than this; rename a trace to keep it")  # fmt: skip
    _add_shadow_options(parser)
    parser.add_argument("--via", metavar="PREFIX", help="reach libvirt by a command, e.g. 'ssh host'")
    parser.add_argument(
        "--via-socket", metavar="PATH", help="behind --via, relay to this socket with nc or socat, not virt-ssh-helper"
    )
    parser.add_argument(
        "--mask-names", action="store_true", help="leave names out of the traces and their files' names"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object for each migration, a line each")
    parser.add_argument("--print-unit", action="store_true",
                        help="print a systemd unit that runs this very command, and do nothing else")  # fmt: skip
    parser.set_defaults(handler=run)


def _add_shadow_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shadow", action="append", default=[], metavar="[LABEL=]NAME[,OPTION=VALUE...]", dest="policy",
        help="keep in each trace what this rule would have done, e.g. kubevirt-1.9; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--config", action="append", default=[], metavar="FILE",
        help="options of the rules from a KubeVirt, HyperConverged, MigrationPolicy or VMI object",
    )  # fmt: skip
    parser.add_argument(
        "--set", action="append", default=[], metavar="OPTION=VALUE", help="an option for every rule given"
    )


def run(arguments: argparse.Namespace) -> int:
    """Watches, or prints the unit."""
    keep, annotate = _keep(arguments), _shadow(arguments)
    if arguments.print_unit:
        from migkit.cli.unit import unit

        print(unit(arguments), end="")
        return 0
    from migkit.capture.watch import watch

    watch(
        arguments.connect,
        output=arguments.output,
        interval_ms=arguments.interval,
        keep=keep,
        mask_names=arguments.mask_names,
        via=arguments.via,
        via_socket=arguments.via_socket,
        annotate=annotate,
        on_end=lambda ended: _print(line(ended, as_json=arguments.json), sys.stdout),
        on_notice=_say,
        on_ready=lambda: _say(f"watching {arguments.connect}"),
    )
    _say("stopped")
    return 0


def _keep(arguments: argparse.Namespace) -> Keep:
    from migkit.capture.watch_folder import Keep
    from migkit.policies.size import parse_quantity

    total = None if arguments.keep_bytes is None else int(parse_quantity(arguments.keep_bytes))
    days = arguments.keep_days
    if total is not None and total <= 0:
        raise UsageError(f"--keep-bytes {arguments.keep_bytes}: must be more than 0")
    if days is not None and not 0 < days < 1e6:
        raise UsageError(f"--keep-days {days:g}: must be more than 0")
    return Keep(total_bytes=total, age_s=None if days is None else days * _DAY_S)


def _shadow(arguments: argparse.Namespace) -> Annotate | None:
    if not arguments.policy and not arguments.config:
        if arguments.set:
            raise UsageError("--set gives options to rules: name one, e.g. --shadow kubevirt-1.9")
        return None
    from migkit.cli.policies import chosen_policies
    from migkit.drivers.shadow import Shadow

    return Shadow.of(chosen_policies(arguments))


def line(ended: Ended, *, as_json: bool) -> str:
    """One line about a migration, for a person or a program."""
    recording = ended.recording
    began, over = _moment(recording.first_wall_ns), _moment(recording.last_wall_ns)
    if as_json:
        known: dict[str, Any] = {"domain": ended.domain, "began": began, "ended": over, "recovered": ended.recovered}
        known |= json.loads(described(recording, as_json=True))
        return json.dumps(known | {"shadow": kept(recording.meta)})
    told = f"{ended.domain}: {in_words(recording)}, {began} to {over}, {recording.path}"
    recovered = "begun by an earlier watcher" if ended.recovered else ""
    return "; ".join(filter(None, (told, recovered, shadows_in_words(recording.meta))))


def _moment(wall_ns: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall_ns // NS_PER_S))


def _say(text: str) -> None:
    _print(f"migkit: {text}", sys.stderr)


def _print(text: str, stream: Any) -> None:
    """Whether or not anybody reads it: the recording goes on."""
    with contextlib.suppress(OSError):
        print(text, file=stream, flush=True)

"""`migkit shadow`: says what a policy would do to a migration that somebody else has started, and records it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from migkit.cli.lived import Prepared, add_live_options, watched
from migkit.cli.policies import one_configuration
from migkit.cli.record import add_via_options

if TYPE_CHECKING:
    from migkit.drivers.live import Live
    from migkit.manifest import Configuration


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb to the parser."""
    parser = verbs.add_parser(
        "shadow", help="say what a policy would do to a running migration", description=__doc__,
        epilog="Needs a read-only connection. Waits for a migration if none is running. Exits 0 when the migration "
        "completed, else 1 with a line that says why. Ctrl-C stops watching and keeps what there is.",
    )  # fmt: skip
    parser.add_argument("domain", metavar="DOMAIN", help="name or uuid of the guest on its source host")
    add_via_options(parser)
    add_live_options(parser)
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Looks on; 0 when the migration completed."""
    return watched(arguments, lambda: _prepared(arguments))


def _prepared(arguments: argparse.Namespace) -> Prepared:
    configuration = one_configuration(arguments, "shadow")

    def go(**options: Any) -> Live:
        from migkit.drivers.live import live

        return live(
            arguments.domain, configuration.policy, via=arguments.via, via_socket=arguments.via_socket,
            **_of_the_vmi(configuration, options),
        )  # fmt: skip

    return configuration, go


def _of_the_vmi(configuration: Configuration, options: dict[str, Any]) -> dict[str, Any]:
    """The options with what the VMI says of data size and assigned devices, where the command line does not."""
    from migkit.migration import plan

    found = plan(configuration.policy.version, configuration.migration, vmi=configuration.vmi)
    told = {"data_size_gb": found.data_size_gb, "has_vfio": found.has_vfio or None}
    return options | {name: value for name, value in told.items() if options[name] is None}

"""`migkit migrate`: starts a migration as KubeVirt does, watches it, acts on it, records it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from migkit.cli.lived import Prepared, add_live_options, watched
from migkit.cli.policies import ephemeral_bytes, one_configuration

if TYPE_CHECKING:
    from migkit.drivers.live import Live

_EPILOG = """Without --act the policy only says what it would do; the migration itself is real. Exits 0 when the
migration completed, else 1 with a line that says why. Ctrl-C (or SIGTERM, or a closed terminal) cancels the migration,
as virsh does; a second one leaves it to libvirt. Should migkit be killed, libvirt goes on with the migration and nobody
applies the policy: look on with `migkit shadow`, end it with `virsh domjobabort`. What was recorded until then:
`migkit recover`."""


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb to the parser."""
    parser = verbs.add_parser("migrate", help="migrate a guest under a policy", description=__doc__, epilog=_EPILOG)
    parser.add_argument("domain", metavar="DOMAIN", help="name or uuid of the guest on its source host")
    parser.add_argument("to", metavar="DEST-URI", help="libvirt of the destination, as the source's daemon reaches it")
    parser.add_argument("--act", action="store_true", help="do what the policy decides; without it is only said")
    parser.add_argument(
        "--bandwidth", metavar="RATE", help="the most to send in a second, e.g. 64Mi (= --set bandwidth_per_migration)"
    )
    parser.add_argument("--block-migration", action="store_true", help="copy disks (default: as the VMI says)")
    parser.add_argument(
        "--ephemeral", metavar="SIZE", default="0",
        help="the files of ephemeral disks, which no manifest tells: with --config VMI they count into the deadline",
    )  # fmt: skip
    parser.add_argument("--migrate-uri", metavar="URI", help="where memory goes if not to DEST-URI's host: tcp://HOST")
    add_live_options(parser)
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Migrates; 0 when it completed."""
    return watched(arguments, lambda: _prepared(arguments))


def _prepared(arguments: argparse.Namespace) -> Prepared:
    if arguments.bandwidth is not None:
        arguments.set.insert(0, f"bandwidth_per_migration={arguments.bandwidth}")
    configuration = one_configuration(arguments, "migrate")
    ephemeral = ephemeral_bytes(arguments, configuration)

    def go(**options: Any) -> Live:
        from migkit.drivers.migrate import migrate

        return migrate(
            arguments.domain, arguments.to, configuration.policy, options=configuration.migration,
            vmi=configuration.vmi, block_migration=arguments.block_migration, ephemeral_bytes=ephemeral,
            migrate_uri=arguments.migrate_uri, act=arguments.act, **options,
        )  # fmt: skip

    return configuration, go

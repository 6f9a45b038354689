"""`migkit flags`: what KubeVirt asks of libvirt for a migration, and why."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migkit.cli.policies import ephemeral_bytes, parse_options, size_bytes
from migkit.errors import MigkitError, UsageError, unknown

if TYPE_CHECKING:
    from migkit.manifest import Configuration
    from migkit.migration import Plan

# What turns a flag on, besides the options of its name.
_BECAUSE = {
    "VIR_MIGRATE_LIVE": "always", "VIR_MIGRATE_PEER2PEER": "always", "VIR_MIGRATE_PERSIST_DEST": "always",
    "VIR_MIGRATE_PAUSED": "the domain is paused", "VIR_MIGRATE_NON_SHARED_INC": "block migration",
    "VIR_MIGRATE_UNSAFE": "unsafe_migration_override", "VIR_MIGRATE_COMPRESSED": "compression",
    "VIR_MIGRATE_AUTO_CONVERGE": "allow_auto_converge", "VIR_MIGRATE_POSTCOPY": "allow_post_copy",
    "VIR_MIGRATE_PARALLEL": "parallel connections",
}  # fmt: skip


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb to the parser."""
    parser = verbs.add_parser("flags", help="say what KubeVirt asks of libvirt for a migration", description=__doc__)
    parser.add_argument("--version", metavar="VERSION", help="of KubeVirt, e.g. 1.9 (default: the configuration's)")
    add_configuration_options(parser)
    parser.add_argument("--xml", metavar="FILE", help="the domain's XML: says of each disk whether it is copied")
    parser.add_argument("--paused", action="store_true", help="the domain is paused as the migration starts")
    parser.add_argument("--block-migration", action="store_true", help="disks are copied (default: as the VMI says)")
    parser.add_argument(
        "--ephemeral", metavar="SIZE", default="0",
        help="the files of ephemeral disks, which no manifest tells: they count into the deadline, e.g. 2Gi",
    )  # fmt: skip
    parser.add_argument(
        "--disk-size", metavar="VOLUME=SIZE", action="append", default=[],
        help="virtual size of the image of a volume that moves, for --print-xml; may be given several times",
    )  # fmt: skip
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--print-xml", action="store_true", help="print the XML for the destination, and nothing else")
    what.add_argument("--all-versions", action="store_true", help="a line a version instead of the details of one")
    what.add_argument("--json", action="store_true", help="everything as one JSON object")
    parser.set_defaults(handler=run)


def add_configuration_options(parser: argparse.ArgumentParser) -> None:
    """--config, --vmi and --set, as a verb takes them that asks something of libvirt."""
    parser.add_argument(
        "--config", action="append", default=[], metavar="FILE",
        help="a KubeVirt, HyperConverged or MigrationPolicy object in YAML or JSON; may be given several times",
    )  # fmt: skip
    parser.add_argument("--vmi", metavar="FILE", help="the VirtualMachineInstance, in YAML or JSON")
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="an option over all others")


def configuration(arguments: argparse.Namespace, version: str | None) -> Configuration:
    """The configuration that --config, --vmi and --set describe, for a version where one is meant."""
    from migkit.manifest import changed, defaults, read_configuration

    files = [*arguments.config, *([arguments.vmi] if arguments.vmi else [])]
    found = read_configuration(files, version) if files else defaults(version)
    if arguments.vmi and found.vmi is None:
        raise MigkitError(f"{arguments.vmi}: holds no VirtualMachineInstance")
    return changed(found, (parse_options(arguments.set), "--set"))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """All that is to be told about one version."""

    configuration: Configuration
    plan: Plan
    deadline_s: int | None
    without_ephemeral: bool


def run(arguments: argparse.Namespace) -> int:
    """Prints flags, parameters, options and disks."""
    if arguments.disk_size and not arguments.print_xml:
        raise UsageError("--disk-size is for --print-xml alone: give that, too, or leave it out")
    if arguments.print_xml:
        print(_destination_xml(arguments), end="")
    elif arguments.all_versions:
        print(_every_version(arguments))
    else:
        asked = _ask(arguments, arguments.version)
        print(json.dumps(_plain(asked)) if arguments.json else _told(asked))
    return 0


def _ask(arguments: argparse.Namespace, version: str | None) -> _Asked:
    from migkit.migration import plan

    found = configuration(arguments, version)
    ephemeral = ephemeral_bytes(arguments, found)
    planned = plan(
        found.policy.version, found.migration, vmi=found.vmi, xml=_xml(arguments) if arguments.xml else None,
        block_migration=arguments.block_migration, paused=arguments.paused, ephemeral_bytes=ephemeral,
    )  # fmt: skip
    size = planned.data_size_gb
    deadline = None if size is None else found.policy.computed(data_size_gb=size, has_vfio=False).acceptable_s
    return _Asked(configuration=found, plan=planned, deadline_s=deadline,
                  without_ephemeral=planned.block_migration and not ephemeral)  # fmt: skip


def _xml(arguments: argparse.Namespace) -> str:
    from migkit.migration.volumes import domain_root

    try:
        text = Path(arguments.xml).read_text()
        domain_root(text)
    except OSError as error:
        raise MigkitError(f"{arguments.xml}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, MigkitError) as error:
        raise MigkitError(f"{arguments.xml}: {error}") from None
    return text


def _destination_xml(arguments: argparse.Namespace) -> str:
    from migkit.migration import rewritten

    if not arguments.vmi or not arguments.xml:
        raise UsageError("--print-xml needs --vmi FILE and --xml FILE")
    found = configuration(arguments, arguments.version)
    assert found.vmi is not None
    names = [volume.name for volume in found.vmi.volumes]
    sizes = {}
    for name, size in parse_options(arguments.disk_size).items():
        if name not in names:
            raise type(error := unknown("volume", name, names))(f"--disk-size: {error}")
        sizes[name] = size_bytes(size, f"--disk-size {name}")
    return rewritten(found.policy.version, _xml(arguments), found.vmi, sizes)


def _every_version(arguments: argparse.Namespace) -> str:
    """A line a version; one that cannot have the options given says so."""
    from migkit.policies.versions import VERSIONS

    if arguments.version:
        raise UsageError("--all-versions shows every version: leave out --version")
    lines = []
    for version in VERSIONS:
        try:
            asked = _ask(arguments, version).plan.request
        except MigkitError as error:
            lines.append((version, "-", str(error)))
        else:
            said = ", ".join(f"{name}={_value(value)}" for name, value in asked.parameters.items())
            names = " ".join(name.removeprefix("VIR_MIGRATE_") for name in asked.flag_names)
            lines.append((version, str(asked.flags), names + (f"; {said}" if said else "")))
    return _columns(lines, right=(1,))


def _told(asked: _Asked) -> str:
    found, request = asked.configuration, asked.plan.request
    from migkit.migration import FLAGS, PARAMETERS
    from migkit.migration.request import applies

    head = f"KubeVirt {found.policy.version} (version {found.version_from})"
    flags = [(name, str(FLAGS[name][0]), FLAGS[name][1], _BECAUSE[name]) for name in request.flag_names]
    parts = [f"{head}\nflags {request.flags} ({request.flags:#x})\n" + _columns(flags, right=(1,))]
    told = [(name, _value(value), PARAMETERS[name]) for name, value in request.parameters.items()]
    parts.append("parameters\n" + _columns(told) if told else "no parameters: bandwidth is not limited")
    parts += ["to know\n" + "\n".join(f"  {note}" for note in request.notes)] if request.notes else []
    version = found.policy.version
    names = [field.name for field in dataclasses.fields(found.migration) if applies(version, field.name)]
    options = [(name, _value(getattr(found.migration, name)), found.migration_origins[name]) for name in names]
    parts.append("options\n" + _columns(options, right=(1,)))
    return "\n\n".join(parts + _of_the_guest(asked))


def _of_the_guest(asked: _Asked) -> list[str]:
    """Volumes, disks and the deadline, as far as they are known."""
    parts, vmi, plan = [], asked.configuration.vmi, asked.plan
    if plan.volumes:
        rows = [(name, found.kind or "none", found.why) for name, found in plan.volumes.items()]
        parts.append("volumes\n" + _columns([("volume", "class", "why"), *rows]))
    if plan.disks:
        chosen = [(d.target, d.volume or "-", "copied" if d.copied else "not copied", d.why) for d in plan.disks]
        parts.append("disks\n" + _columns([("disk", "volume", "", "why"), *chosen]))
    elif plan.disks is None and plan.block_migration:
        parts.append("which disks are copied follows from the domain's XML: give --xml FILE")
    if vmi is not None:
        per_gb = asked.configuration.policy.options["completion_timeout_per_gib"]
        origin = asked.configuration.origins["completion_timeout_per_gib"]
        deadline = (
            f"{asked.deadline_s} s: {plan.data_size_gb} GB x {per_gb} s ({origin})" if asked.deadline_s else "none"
        )
        more = "; files of ephemeral disks come on top (--ephemeral SIZE)" if asked.without_ephemeral else ""
        parts.append(f"completion deadline {deadline}{more}")
    if plan.has_vfio:
        parts.append("the guest has host devices, a GPU or an SR-IOV interface (VFIO)")
    return parts


def _plain(asked: _Asked) -> dict[str, Any]:
    found, plan = asked.configuration, asked.plan
    return {
        "version": found.policy.version,
        "version_from": found.version_from,
        **dataclasses.asdict(plan.request),
        "options": dataclasses.asdict(found.migration),
        "origins": dict(found.migration_origins),
        "volumes": {name: {"class": one.kind, "why": one.why} for name, one in plan.volumes.items()},
        "disks": [dataclasses.asdict(disk) for disk in plan.disks or []],
        "data_size_gb": plan.data_size_gb,
        "deadline_s": asked.deadline_s,
        "has_vfio": plan.has_vfio,
    }


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return " ".join(value)
    return "-" if value is None or value == "" else str(value)


def _columns(rows: Sequence[tuple[str, ...]], right: tuple[int, ...] = ()) -> str:
    """Rows as aligned text, indented; the columns `right` are numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            text.rjust(width) if index in right else text.ljust(width)
            for index, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(f"  {line}".rstrip() for line in lines)

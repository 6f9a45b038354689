"""Starts a migration as KubeVirt does, and lives through it under a policy."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import Any

from migkit.capture import source as s
from migkit.capture.recorder import opened_for
from migkit.capture.sampler import in_background
from migkit.drivers.live import Live, live
from migkit.errors import MigkitError, UsageError
from migkit.meta import Migration
from migkit.migration import MigrationOptions, Plan, Vmi, plan
from migkit.policies.versions import Policy
from migkit.schema import JOB_BOUNDED, JOB_NONE, JOB_UNBOUNDED


def migrate(
    domain: s.Migratable | str,
    to: str,
    policy: Policy,
    *,
    options: MigrationOptions | None = None,
    vmi: Vmi | None = None,
    block_migration: bool = False,
    ephemeral_bytes: int = 0,
    migrate_uri: str | None = None,
    uri: str = "qemu:///system",
    destination: s.Witness | str | None = None,
    data_size_gb: int | None = None,
    has_vfio: bool | None = None,
    **live_options: Any,
) -> Live:
    """Migrates a domain as the policy's KubeVirt version asks libvirt to, records it, and runs the policy.

    Parameters: `domain`, its name or uuid at the libvirt `uri`, or an open one; `to`, libvirt of the destination as the
    source's daemon reaches it; `options` of the migration (`migkit.migration`), post-copy as the policy has it;
    `vmi`, the guest's manifest: it says which disks are copied, the data size, whether there are assigned devices;
    `block_migration`, disks that are not shared are copied even where no VMI says so; `ephemeral_bytes`, the files of
    ephemeral disks, which no manifest tells; `migrate_uri`, e.g. tcp://HOST, where memory goes if not where `to` leads;
    `destination`, as in `live` (default: `to`, where it answers from here too); `data_size_gb`, `has_vfio` over what
    VMI and domain say; the others are those of `live`: `act`, `output`, ...
    Without `act` the policy only says what it would do. Ctrl-C cancels the migration, a second one leaves it to itself;
    should this process be killed the source's daemon goes on with it, and nobody applies the policy.
    Raises MigkitError when the migration cannot be begun; once it has begun, its end is the result.

    >>> import migkit as mk
    >>> found = mk.migrate("guest", "fake://there", mk.kubevirt("1.8"), uri="fake:///fast?speed=20")
    >>> found.trace.meta.end.outcome, found.trace.meta.migration.flag_names[:2]
    ('completed', ('VIR_MIGRATE_LIVE', 'VIR_MIGRATE_PEER2PEER'))
    """
    if "call" in live_options:
        raise UsageError("migrate makes the migrate call itself")
    if "://" not in to:
        raise UsageError(f"destination {to!r}: write it as a URI of libvirt, e.g. qemu+ssh://{to or 'HOST'}/system")
    options = options or MigrationOptions()
    options = dataclasses.replace(options, allow_post_copy=bool(policy.options["allow_post_copy"]))
    with contextlib.ExitStack() as stack:
        opened = opened_for(stack, domain, lambda name: s.open_migratable(name, uri, waits=True))
        _refuse_a_second(opened)
        found = _planned(opened, policy, options, vmi, block_migration=block_migration, ephemeral_bytes=ephemeral_bytes)
        call = _Migrate(opened, to, found, migrate_uri, _of_the_move(vmi))
        return live(
            opened, policy, destination=to if destination is None else destination, call=call,
            data_size_gb=found.data_size_gb if data_size_gb is None else data_size_gb,
            has_vfio=found.has_vfio if has_vfio is None else has_vfio, **live_options,
        )  # fmt: skip


def _refuse_a_second(domain: s.Migratable) -> None:
    """Raises MigkitError where a migration runs already: it would be taken for the one begun here, and cancelled by
    Ctrl-C. A call that is refused tells no more than nothing."""
    try:
        kind = in_background(domain.job_stats).get("type", JOB_NONE)
    except s.SourceError:
        return
    if kind in (JOB_BOUNDED, JOB_UNBOUNDED):
        name = in_background(domain.facts).domain.name
        raise MigkitError(
            f"{name}: a migration or another job of it runs already: look on with migkit shadow, or end it with virsh "
            "domjobabort"
        )


def _planned(
    domain: s.Migratable, policy: Policy, options: MigrationOptions, vmi: Vmi | None, **given: Any
) -> Plan:  # fmt: skip
    """What is asked for. Without a VMI nobody knows which disks both hosts reach: libvirt then chooses itself."""
    state, _ = in_background(domain.state)
    libvirt = in_background(domain.facts).host.libvirt_version
    xml = None if vmi is None else in_background(domain.xml)
    return plan(policy.version, options, vmi=vmi, xml=xml, paused=state == s.PAUSED, libvirt=libvirt, **given)


def _of_the_move(vmi: Vmi | None) -> tuple[str, ...]:
    """What is not done here of what KubeVirt does with volumes that move."""
    moving = [volume.name for volume in vmi.migrated] if vmi else []
    if not moving:
        return ()
    return (f"{', '.join(moving)} move to other storage: the destination gets the domain's own paths, which KubeVirt "
            f"would change (migkit flags --print-xml)",)  # fmt: skip


class _Migrate:
    """The call itself. `migration`: what it asks for, and since when; `notes`, what is to be said of it."""

    def __init__(
        self, domain: s.Migratable, to: str, found: Plan, migrate_uri: str | None, notes: tuple[str, ...]
    ) -> None:
        self._domain, self._to, asked = domain, to, found.request
        self.notes = (*asked.notes, *notes)
        parameters = dict(asked.parameters) | ({"migrate_uri": migrate_uri} if migrate_uri else {})
        self.migration = Migration(flags=asked.flags, flag_names=asked.flag_names, parameters=parameters)

    def __call__(self) -> None:
        self.migration = dataclasses.replace(self.migration, started_wall_ns=time.time_ns())
        self._domain.migrate(self._to, self.migration.flags or 0, self.migration.parameters)

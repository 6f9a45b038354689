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
from migkit.errors import UsageError
from migkit.meta import Migration
from migkit.migration import MigrationOptions, Request, request
from migkit.policies.versions import Policy


def migrate(
    domain: s.Migratable | str,
    to: str,
    policy: Policy,
    *,
    options: MigrationOptions | None = None,
    block_migration: bool = False,
    migrate_uri: str | None = None,
    uri: str = "qemu:///system",
    destination: s.Witness | str | None = None,
    **live_options: Any,
) -> Live:
    """Migrates a domain as the policy's KubeVirt version asks libvirt to, records it, and runs the policy.

    Parameters: `domain`, its name or uuid at the libvirt `uri`, or an open one; `to`, libvirt of the destination as the
    source's daemon reaches it; `options` of the migration (`migkit.migration`), post-copy as the policy has it;
    `block_migration`, disks that are not shared are copied too; `migrate_uri`, e.g. tcp://HOST, where memory goes if
    not where `to` leads; `destination`, as in `live` (default: `to`, where it answers from here too); the others are
    those of `live`: `act`, `output`, ...
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
    options = options or MigrationOptions()
    options = dataclasses.replace(options, allow_post_copy=bool(policy.options["allow_post_copy"]))
    with contextlib.ExitStack() as stack:
        opened = opened_for(stack, domain, lambda name: s.open_migratable(name, uri, waits=True))
        state, _ = in_background(opened.state)
        asked = request(policy.version, options, block_migration=block_migration, paused=state == s.PAUSED)
        call = _Migrate(opened, to, asked, migrate_uri)
        return live(opened, policy, destination=to if destination is None else destination, call=call, **live_options)


class _Migrate:
    """The call itself. `migration`: what it asks for, and since when."""

    def __init__(self, domain: s.Migratable, to: str, asked: Request, migrate_uri: str | None) -> None:
        self._domain, self._to = domain, to
        parameters = dict(asked.parameters) | ({"migrate_uri": migrate_uri} if migrate_uri else {})
        self.migration = Migration(flags=asked.flags, flag_names=asked.flag_names, parameters=parameters)

    def __call__(self) -> None:
        self.migration = dataclasses.replace(self.migration, started_wall_ns=time.time_ns())
        self._domain.migrate(self._to, self.migration.flags or 0, self.migration.parameters)

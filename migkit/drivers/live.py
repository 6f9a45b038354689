"""Runs a decision rule on a migration as it happens: watching, or acting where that was asked for.

Every wake-up is kept with what it read, so a replay of the trace that comes out decides exactly what was decided here.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from migkit.capture import source as s
from migkit.capture.clock import Clock
from migkit.capture.journal import Recording, finalise, journal_path, read, writable
from migkit.capture.recorder import identity, opened_for, signals_to
from migkit.capture.sampler import in_background
from migkit.capture.session import Session
from migkit.drivers.aftermath import Sides, sides
from migkit.drivers.beside import Beside, Call
from migkit.errors import MigkitError, UsageError
from migkit.policies.size import checked_size
from migkit.policies.versions import Policy

if TYPE_CHECKING:
    import pandas as pd

    from migkit.trace import Trace

WITNESS_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Live:
    """What a policy did to a running migration, or would have done.

    Attributes: `decisions`, one row a call (`LIVE_COLUMNS`); `trace`, the recording with every wake-up, what it read,
    the events and the actions really taken; `path` of its file, if one was asked for and could be written, else
    `problem` says why not; `result`, how the monitor ended, or "running" when the migration ended first; `acted`;
    `sides`, what there is on both hosts where the migration did not complete.
    """

    trace: Trace
    policy: Policy
    decisions: pd.DataFrame
    result: str
    acted: bool
    path: Path | None = None
    problem: str = ""
    sides: Sides | None = None


def live(
    domain: s.Source | str,
    policy: Policy,
    *,
    act: bool = False,
    uri: str = "qemu:///system",
    via: str | None = None,
    via_socket: str | None = None,
    destination: s.Witness | str | None = None,
    output: str | os.PathLike[str] | None = None,
    force: bool = False,
    interval_ms: float = 100,
    mask_names: bool = False,
    data_size_gb: int | None = None,
    has_vfio: bool | None = None,
    limit_s: float | None = None,
    watch: Callable[[Beside], None] | None = None,
    call: Call | None = None,
) -> Live:
    """Waits for a migration of the domain and lives through it under a policy.

    Parameters: `domain`, its name or uuid at the libvirt `uri` (`via`, `via_socket`: as in `record`), or an open one;
    `act`, whether calls are really made, else the policy only says what it would do, over a read-only connection;
    `destination`, libvirt of the host it goes to, asked how it ended there; `output`, where the trace goes, `force`
    overwrites; `interval_ms` between the recorder's polls; `mask_names` as in `record`; `data_size_gb`, `has_vfio`,
    where the domain's own facts are not to be used; `limit_s`, after which it stops (default: never); `watch` is handed
    the rule beside it before anything happens, to look on; `call` is the migrate call that is to be made.
    The recording goes on to the migration's end when the monitor has ended before. Ctrl-C stops watching and keeps what
    there is; a migration begun by `call` is cancelled at the first Ctrl-C and left to itself at the second.
    Raises MigkitError when the guest's memory is unknown, it goes away, or no migration begins in time.

    >>> import migkit as mk
    >>> found = mk.live("guest", mk.kubevirt("1.8"), uri="fake:///fast?speed=20")
    >>> found.trace.meta.end.outcome, len(found.decisions)
    ('completed', 0)
    """
    target = None if output is None else writable(output, force=force)
    if data_size_gb is not None:
        checked_size(data_size_gb)
    if not 0 < interval_ms <= 60_000:
        raise UsageError(f"interval {interval_ms:g} ms: must be more than 0 and at most 60000")
    with contextlib.ExitStack() as signals, contextlib.ExitStack() as stack:
        opened = opened_for(stack, domain, lambda name: _open(name, uri, act=act, via=via, via_socket=via_socket))
        facts = in_background(opened.facts)
        if data_size_gb is None and facts.domain.memory_bytes is None:
            raise MigkitError(f"{facts.domain.name}: the guest's memory is unknown; pass data_size_gb (--data-size-gb)")
        far, unknown = _destination(stack, destination, facts)
        clock = Clock(getattr(opened, "speed", 1.0))
        beside = Beside(
            opened,
            facts,
            policy,
            clock,
            act=act,
            data_size_gb=data_size_gb,
            has_vfio=has_vfio,
            limit_s=limit_s,
            call=call,
        )
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="migkit-")) if target is None else ""
        path = Path(folder) / "live.parquet" if target is None else target
        session = Session(
            opened, path, interval_ms=interval_ms, destination=far, mask_names=mask_names, companion=beside,
            clock=clock,
        )  # fmt: skip
        signals.enter_context(signals_to(lambda: None if beside.interrupted() else session.stop()))
        if watch is not None:
            watch(beside)
        recording, problem = _recorded(session, beside, facts, path, force=force)
        trace = _trace(session, path, recording, facts.domain.name)
        completed = trace.meta.end.outcome == "completed"
        found = None if completed else sides(opened, far, trace.meta.end, unknown=unknown)
    return Live(
        trace=trace, policy=policy, decisions=beside.decisions(), result=beside.result(), acted=act,
        path=path if target is not None and not problem else None, problem=problem, sides=found,
    )  # fmt: skip


def _open(name: str, uri: str, *, act: bool, via: str | None, via_socket: str | None) -> s.Source:
    if not act:
        return s.open_source(name, uri, via=via, via_socket=via_socket)
    if via is not None or via_socket is not None:
        raise UsageError("acting needs a read-write connection, which via does not give")
    return s.open_migratable(name, uri)


def _destination(
    stack: contextlib.ExitStack, there: s.Witness | str | None, facts: s.Facts
) -> tuple[s.Witness | None, str]:
    """The destination as far as it can be asked from here, and why not."""
    if there is None:
        return None, "nobody said how to ask it (--destination URI)"
    if not isinstance(there, str):
        return there, ""
    try:
        found: s.Witness | None = in_background(lambda: s.open_witness(identity(facts), there), WITNESS_S)
    except MigkitError as error:
        return None, str(error)
    if found is None:
        return None, f"{there}: no answer within {WITNESS_S:g} s"
    stack.callback(found.close)
    return found, ""


def _recorded(
    session: Session, beside: Beside, facts: s.Facts, path: Path, *, force: bool
) -> tuple[Recording | None, str]:
    """The recording, or why there is none although the migration was lived through to its end."""
    try:
        return session.run(facts, lambda journal: finalise(journal.fd, journal.path, path, force=force)), ""
    except MigkitError as error:
        if not session.ended and beside.unanswered:
            raise MigkitError(f"{error}; but libvirt may still begin the migration: virsh domjobinfo tells") from None
        if not session.ended:
            raise
        return None, str(error)


def _trace(session: Session, path: Path, recording: Recording | None, name: str) -> Trace:
    """What was written, or put together from the journal and what it lacks."""
    from migkit.trace import Trace

    if recording is not None:
        return Trace.load(path, name)
    try:
        rows = read(journal_path(path)).rows
    except MigkitError:
        rows = []
    known = sorted([*rows, *session.unwritten_rows], key=lambda row: int(row["mono_ns"]))
    return Trace.from_rows(known, session.meta, name)

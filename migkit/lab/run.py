"""One migration of the lab from the guest's boot to its trace."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migkit.capture.outcome import after_abort
from migkit.errors import MigkitError
from migkit.failures import with_failure
from migkit.lab import domain, guest, heartbeat
from migkit.lab.actions import Actions, Row
from migkit.lab.control import Control, Outcome, flags, parameters
from migkit.lab.heartbeat import DESTINATION, SOURCE, Line, Listener
from migkit.lab.hosts import Lab, wait_until
from migkit.lab.recording import Recording, record
from migkit.lab.scenario import Guest, Scenario, seeded
from migkit.lab.under import Migrating, Under
from migkit.meta import Heartbeat
from migkit.meta import Lab as LabMeta
from migkit.trace import Trace
from migkit.units import MIB, NS_PER_S

BOOT_TIMEOUT_S = 60.0
CHECK_TIMEOUT_S = 20.0
STAYED_TIMEOUT_S = 5.0
RECORDER_TIMEOUT_S = 40.0
_SETTLE_S = 1.0
_CHECKED_BPS = 125 * MIB  # guest/init.c: CHECK_PAGES in every tick


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A migration that was made: its trace, how the migrate call ended, and the actions that it ended too early for;
    `told`, what `migkit migrate` said of it, a JSON object a line."""

    path: Path
    trace: Trace
    outcome: Outcome
    guest_corrupted: bool
    missed: tuple[str, ...]
    told: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Observed:
    """What the lab itself saw of a migration."""

    outcome: Outcome
    rows: Sequence[Row]
    missed: tuple[str, ...]
    heartbeat: Heartbeat
    corrupted: bool
    downtime_limit_ms: int
    started_wall_ns: int


def run(
    scenario: Scenario, lab: Lab, output: Path, *, via: bool = False, interval_ms: float = 100,
    beside: Scenario | None = None, notes: Mapping[str, Any] | None = None, under: Under | None = None,
) -> list[Run]:  # fmt: skip
    """Makes the migration and saves its trace as `output`/SCENARIO.parquet, with a number when that exists.

    A guest that came up with corrupted memory (an emulator's fault, about one in forty under TCG) is kept as
    SCENARIO-corrupted.parquet and the migration repeated once: then two runs are returned, the last one last.
    `beside` is migrated at the same moment, and its run returned too. `notes` go into the traces' metadata. `under`: it
    is `migkit migrate` that makes the migration, under a policy.

    Raises MigkitError when the folder cannot be written, the guest does not boot, or the recorder fails.
    """
    image = guest.image()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MigkitError(f"{output}: cannot be made ({error.strerror or error})") from None
    wanted = [scenario] if beside is None else [scenario, beside]
    plan = _Plan(
        lab=lab, image=image, output=output, via=via, interval_ms=interval_ms, notes=notes or {}, under=under,
        start=threading.Barrier(len(wanted)), end=threading.Barrier(len(wanted)),
    )  # fmt: skip
    with lab.busy():
        made = _together(plan, wanted)
        corrupted = [one for one in made if one.guest_corrupted]
        if not corrupted:
            return made
        for one in made:
            if not one.guest_corrupted:  # it is made again, too
                one.path.unlink()
        return [*corrupted, *_together(plan, wanted)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What the migrations of one run share. Those of several guests wait for each other at `start`, and again at
    `end`, before the first guest is ended."""

    lab: Lab
    image: guest.GuestImage
    output: Path
    via: bool
    interval_ms: float
    notes: Mapping[str, Any]
    under: Under | None
    start: threading.Barrier
    end: threading.Barrier


def _together(plan: _Plan, wanted: Sequence[Scenario]) -> list[Run]:
    """The scenarios' migrations, all at once; a second guest has a thread of its own."""
    _clean(plan.lab)
    if len(wanted) == 1:
        return [_attempt(plan, wanted[0], first=True)]
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(_attempt, plan, wanted[1], first=False)
        try:
            made = _attempt(plan, wanted[0], first=True)
        except BaseException:
            with Control(plan.lab) as control:
                control.end_guest(wanted[1].name)  # and with it what the other thread waits for
            raise
        return [made, other.result()]


def _attempt(plan: _Plan, scenario: Scenario, *, first: bool) -> Run:
    try:
        return _one(plan, scenario, first=first)
    except BaseException:
        plan.start.abort()
        plan.end.abort()
        raise


def _one(plan: _Plan, scenario: Scenario, *, first: bool) -> Run:
    lab, load = plan.lab, _load_average()
    scenario = seeded(scenario, secrets.randbelow(2**31))
    with tempfile.TemporaryDirectory(prefix="recording-", dir=lab.folder) as temporary:
        recorded = Path(temporary) / "trace.parquet"
        with booted(scenario, lab, plan.image, first=first) as (control, listener):
            migrating = None
            if plan.under is not None:
                migrating = Migrating(lab, scenario, plan.under, recorded, interval_ms=plan.interval_ms)
                _wait(plan.start)
                with contextlib.closing(migrating):
                    seen = _migrate(scenario, control, listener, migrating.run, begun=migrating.begun)
            else:
                with record(lab, scenario.name, recorded, via=plan.via, interval_ms=plan.interval_ms) as recorder:
                    _wait(plan.start)
                    seen = _migrate(
                        scenario, control, listener, lambda: control.migrate(scenario.name, scenario.migration)
                    )
                    _finish(recorder, seen.outcome)
            _wait(plan.end)
        trace = _merge(Trace.load(recorded), scenario, lab, seen)
    notes = {"accelerator": lab.accelerator, "processors": os.cpu_count(), "load_average_before": load,
             "load_average_after": _load_average()}  # fmt: skip
    trace = trace.replace_meta(notes={**trace.meta.notes, **plan.notes, **notes})
    path = _free(plan.output, f"{scenario.name}-corrupted" if seen.corrupted else scenario.name)
    trace = dataclasses.replace(trace, name=path.stem)
    trace.save(path)
    told = tuple(migrating.told) if migrating else ()
    return Run(
        path=path, trace=trace, outcome=seen.outcome, guest_corrupted=seen.corrupted, missed=seen.missed, told=told
    )


def _load_average() -> list[float]:
    return [round(value, 2) for value in os.getloadavg()]


def _wait(barrier: threading.Barrier) -> None:
    try:
        barrier.wait(3600)
    except threading.BrokenBarrierError:
        raise MigkitError("lab: the other guest's migration could not be made") from None


def _finish(recording: Recording, outcome: Outcome) -> None:
    try:
        recording.finish(RECORDER_TIMEOUT_S)
    except MigkitError as error:
        if outcome.succeeded:
            raise
        raise MigkitError(f"{error}; the migrate call itself failed: {outcome.error_text}") from None


@contextlib.contextmanager
def booted(scenario: Scenario, lab: Lab, image: guest.GuestImage, *, first: bool) -> Iterator[tuple[Control, Listener]]:
    """The guest on the source, booted and with its memory filled; ended on both hosts afterwards."""
    name, serial = scenario.name, lab.folder / ("serial" if first else "serial2")
    with Listener(serial) as listener, Control(lab) as control:
        try:
            lab.a.limit_link(scenario.migration.link_mibps)
            domain.make_disks(lab, name, scenario.guest, destination=scenario.migration.destination_disk)
            control.start_guest(domain.xml(name, scenario.guest, image, serial=serial, accelerator=lab.accelerator))
            if not listener.wait_for(lambda lines: bool(heartbeat.said(lines[-500:], "ready")), BOOT_TIMEOUT_S):
                raise MigkitError(f"lab: the guest of {name} did not boot within {BOOT_TIMEOUT_S:.0f} s")
            yield control, listener
        finally:
            control.end_guest(name)
            wait_until(lambda: all(host.qemu(name) is None for host in lab.hosts), 10)
            domain.remove_disks(lab, name)


def _clean(lab: Lab) -> None:
    """Ends what a killed run may have left; nobody else uses the lab now."""
    with Control(lab) as control:
        control.end_all_guests()
    lab.a.set_link(up=True)
    lab.a.block_port(blocked=False)


def _migrate(
    scenario: Scenario, control: Control, listener: Listener, migrate: Callable[[], Outcome], *,
    begun: Callable[[], bool] = lambda: True,
) -> _Observed:  # fmt: skip
    limit_ms = control.set_downtime_limit(scenario.name, scenario.migration.downtime_ms)
    time.sleep(_SETTLE_S)  # beats before the migration tell the heartbeat's own gaps
    since_ns, wall_ns = time.monotonic_ns() - int(_SETTLE_S * NS_PER_S), time.time_ns()
    outcome, rows, missed = _call_and_act(scenario, control, migrate, begun)
    corrupted = _is_corrupted(listener, scenario.guest, moved=outcome.succeeded)
    beats = heartbeat.measure(
        listener.lines, interval_ms=scenario.guest.hb_ms, since_ns=since_ns, until_ns=time.monotonic_ns()
    )
    return _Observed(
        outcome=outcome, rows=rows, missed=missed, heartbeat=beats, corrupted=corrupted,
        downtime_limit_ms=limit_ms, started_wall_ns=wall_ns,
    )  # fmt: skip


def _call_and_act(
    scenario: Scenario, control: Control, migrate: Callable[[], Outcome], begun: Callable[[], bool]
) -> tuple[Outcome, Sequence[Row], tuple[str, ...]]:
    """The migrate call in a thread, the actions beside it, from when it has begun: how the call ended, the rows, the
    actions never done."""
    name, ended, timeout_s = scenario.name, threading.Event(), 3 * scenario.seconds + 30
    outcomes: list[Outcome] = []
    failures: list[MigkitError] = []

    def call() -> None:
        try:
            outcomes.append(migrate())
        except MigkitError as error:
            failures.append(error)
        ended.set()

    caller = threading.Thread(target=call, name="migrate", daemon=True)
    began_ns = time.monotonic_ns()
    caller.start()
    if not begun():
        wait_until(lambda: begun() or ended.is_set(), BOOT_TIMEOUT_S)
        began_ns = time.monotonic_ns()
    actions = Actions(control, name, scenario, began_ns)
    try:
        in_time = actions.perform(ended, timeout_s)
    finally:
        missed = tuple(actions.undo())
        if not ended.is_set():
            _break_off(control, name, ended)
        caller.join(30)
    if failures:
        raise failures[0]
    if not in_time or not outcomes:
        raise MigkitError(f"lab: {name} did not end within {timeout_s:.0f} s: the scenario needs other values")
    return outcomes[0], actions.rows, missed


def _break_off(control: Control, name: str, ended: threading.Event) -> None:
    control.act(name, "abort")
    if not ended.wait(10):
        control.end_guest(name)


def _is_corrupted(listener: Listener, told: Guest, *, moved: bool) -> bool:
    """Whether the guest, where it now runs, finds memory that it did not write, or came up dead on the destination."""
    start, side = len(listener.lines), DESTINATION if moved else SOURCE

    def checked(lines: Sequence[Line]) -> bool:
        # The first check that ends may have begun before the switchover.
        return len(heartbeat.said(lines[start:], "ok", side)) >= 2 or heartbeat.corrupted(lines[start:])

    answered = listener.wait_for(checked, _check_timeout_s(told) if moved else STAYED_TIMEOUT_S)
    return heartbeat.corrupted(listener.lines) or (moved and not answered)


def _check_timeout_s(told: Guest) -> float:
    """Two rounds over the working set, three times as slow as a guest with a processor of its own makes them."""
    return CHECK_TIMEOUT_S + 6 * max(told.ws_mib, told.ws_end_mib) * MIB / _CHECKED_BPS


def _merge(trace: Trace, scenario: Scenario, lab: Lab, seen: _Observed) -> Trace:
    """The recorder's trace with what only the lab knows."""
    meta, asked = trace.meta, scenario.migration
    value, names = flags(asked)
    migration = dataclasses.replace(
        meta.migration, downtime_limit_ms=seen.downtime_limit_ms, started_wall_ns=seen.started_wall_ns
    )
    if meta.rule is None:
        migration = dataclasses.replace(
            migration, flags=value, flag_names=names, parameters=parameters(asked, lab.b.address)
        )
    about = LabMeta(
        scenario=scenario.name, description=scenario.description, guest=_told(scenario.guest),
        guest_corrupted=seen.corrupted, truth=scenario.truth.label if scenario.truth else {},
    )  # fmt: skip
    host = dataclasses.replace(meta.host, accelerator=lab.accelerator)
    known = trace.with_rows(seen.rows)
    end = after_abort(meta.end, seen.rows)
    if end.outcome != "completed" and not end.error_text:
        # Only the caller of the migration hears why it failed.
        code, text = seen.outcome.error_code, seen.outcome.error_text
        end = dataclasses.replace(end, error_code=code, error_text=text, failure=None)
    if end.outcome != "completed":
        end = with_failure(end)
    return known.replace_meta(migration=migration, host=host, heartbeat=seen.heartbeat, lab=about, end=end)


def _told(asked: Guest) -> dict[str, Any]:
    """What the guest was set to, without what its pattern does not use."""
    bursts, steady = {"burst_on_s", "burst_off_s", "rest_mibps"}, {"ws_end_mib", "ramp_s"}
    unused = {"bursty": {"hot_ratio"}, "hotcold": bursts}.get(asked.pattern, {"hot_ratio", *bursts})
    unused |= set() if asked.ws_end_mib else steady
    return {key: value for key, value in dataclasses.asdict(asked).items() if key not in unused}


def _free(folder: Path, stem: str) -> Path:
    path, number = folder / f"{stem}.parquet", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.parquet"
    return path

"""One migration of the lab from the guest's boot to its trace."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migkit.errors import MigkitError
from migkit.lab import domain, guest, heartbeat
from migkit.lab.actions import Actions, Row
from migkit.lab.control import Control, Outcome, flags, parameters
from migkit.lab.heartbeat import DESTINATION, SOURCE, Line, Listener
from migkit.lab.hosts import Lab, wait_until
from migkit.lab.recording import Recording, record
from migkit.lab.scenario import Guest, Scenario
from migkit.meta import Heartbeat
from migkit.meta import Lab as LabMeta
from migkit.trace import Trace
from migkit.units import NS_PER_S

BOOT_TIMEOUT_S = 60.0
CHECK_TIMEOUT_S = 20.0
STAYED_TIMEOUT_S = 5.0
RECORDER_TIMEOUT_S = 40.0
_SETTLE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A migration that was made: its trace, how the migrate call ended, and the actions that it ended too early for."""

    path: Path
    trace: Trace
    outcome: Outcome
    guest_corrupted: bool
    missed: tuple[str, ...]


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


def run(scenario: Scenario, lab: Lab, output: Path, *, via: bool = False, interval_ms: float = 100) -> list[Run]:
    """Makes the migration and saves its trace as `output`/SCENARIO.parquet, with a number when that exists.

    A guest that came up with corrupted memory (an emulator's fault, about one in forty under TCG) is kept as
    SCENARIO-corrupted.parquet and the migration repeated once: then two runs are returned, the last one last.

    Raises MigkitError when the folder cannot be written, the guest does not boot, or the recorder fails.
    """
    image = guest.image()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MigkitError(f"{output}: cannot be made ({error.strerror or error})") from None
    with lab.busy():
        first = _attempt(scenario, lab, image, output, via=via, interval_ms=interval_ms)
        if not first.guest_corrupted:
            return [first]
        return [first, _attempt(scenario, lab, image, output, via=via, interval_ms=interval_ms)]


def _attempt(
    scenario: Scenario, lab: Lab, image: guest.GuestImage, output: Path, *, via: bool, interval_ms: float
) -> Run:
    with tempfile.TemporaryDirectory(prefix="recording-", dir=lab.folder) as temporary:
        recorded = Path(temporary) / "trace.parquet"
        with (
            _guest(scenario, lab, image) as (control, listener),
            record(lab, scenario.name, recorded, via=via, interval_ms=interval_ms) as recording,
        ):
            seen = _migrate(scenario, control, listener)
            _finish(recording, seen.outcome)
        trace = _merge(Trace.load(recorded), scenario, lab, seen)
    path = _free(output, f"{scenario.name}-corrupted" if seen.corrupted else scenario.name)
    trace = dataclasses.replace(trace, name=path.stem)
    trace.save(path)
    return Run(path=path, trace=trace, outcome=seen.outcome, guest_corrupted=seen.corrupted, missed=seen.missed)


def _finish(recording: Recording, outcome: Outcome) -> None:
    try:
        recording.finish(RECORDER_TIMEOUT_S)
    except MigkitError as error:
        if outcome.succeeded:
            raise
        raise MigkitError(f"{error}; the migrate call itself failed: {outcome.error_text}") from None


@contextlib.contextmanager
def _guest(scenario: Scenario, lab: Lab, image: guest.GuestImage) -> Iterator[tuple[Control, Listener]]:
    """The guest on the source, booted and with its memory filled; ended on both hosts afterwards."""
    name, serial = scenario.name, lab.folder / "serial"
    with Listener(serial) as listener, Control(lab) as control:
        try:
            # What a killed run may have left; nobody else uses the lab now.
            control.end_all_guests()
            lab.a.set_link(up=True)
            domain.make_disks(lab, name, scenario.guest)
            control.start_guest(domain.xml(name, scenario.guest, image, serial=serial, accelerator=lab.accelerator))
            if not listener.wait_for(lambda lines: bool(heartbeat.said(lines[-500:], "ready")), BOOT_TIMEOUT_S):
                raise MigkitError(f"lab: the guest of {name} did not boot within {BOOT_TIMEOUT_S:.0f} s")
            yield control, listener
        finally:
            control.end_guest(name)
            wait_until(lambda: all(host.qemu(name) is None for host in lab.hosts), 10)
            domain.remove_disks(lab, name)


def _migrate(scenario: Scenario, control: Control, listener: Listener) -> _Observed:
    limit_ms = control.set_downtime_limit(scenario.name, scenario.migration.downtime_ms)
    time.sleep(_SETTLE_S)  # beats before the migration tell the heartbeat's own gaps
    since_ns, wall_ns = time.monotonic_ns() - int(_SETTLE_S * NS_PER_S), time.time_ns()
    outcome, rows, missed = _call_and_act(scenario, control)
    corrupted = _is_corrupted(listener, moved=outcome.succeeded)
    beats = heartbeat.measure(
        listener.lines, interval_ms=scenario.guest.hb_ms, since_ns=since_ns, until_ns=time.monotonic_ns()
    )
    return _Observed(
        outcome=outcome, rows=rows, missed=missed, heartbeat=beats, corrupted=corrupted,
        downtime_limit_ms=limit_ms, started_wall_ns=wall_ns,
    )  # fmt: skip


def _call_and_act(scenario: Scenario, control: Control) -> tuple[Outcome, Sequence[Row], tuple[str, ...]]:
    """The migrate call in a thread, the actions beside it: how the call ended, the rows, the actions never done."""
    name, ended, outcomes, timeout_s = scenario.name, threading.Event(), list[Outcome](), 3 * scenario.seconds + 30

    def call() -> None:
        outcomes.append(control.migrate(name, scenario.migration))
        ended.set()

    actions = Actions(control, name, scenario, time.monotonic_ns())
    caller = threading.Thread(target=call, name="migrate", daemon=True)
    caller.start()
    try:
        in_time = actions.perform(ended, timeout_s)
    finally:
        missed = tuple(actions.undo())
        if not ended.is_set():
            _break_off(control, name, ended)
        caller.join(30)
    if not in_time or not outcomes:
        raise MigkitError(f"lab: {name} did not end within {timeout_s:.0f} s: the scenario needs other values")
    return outcomes[0], actions.rows, missed


def _break_off(control: Control, name: str, ended: threading.Event) -> None:
    control.act(name, "abort")
    if not ended.wait(10):
        control.end_guest(name)


def _is_corrupted(listener: Listener, *, moved: bool) -> bool:
    """Whether the guest, where it now runs, finds memory that it did not write, or came up dead on the destination."""
    start, side = len(listener.lines), DESTINATION if moved else SOURCE

    def checked(lines: Sequence[Line]) -> bool:
        # The first check that ends may have begun before the switchover.
        return len(heartbeat.said(lines[start:], "ok", side)) >= 2 or heartbeat.corrupted(lines[start:])

    answered = listener.wait_for(checked, CHECK_TIMEOUT_S if moved else STAYED_TIMEOUT_S)
    return heartbeat.corrupted(listener.lines) or (moved and not answered)


def _merge(trace: Trace, scenario: Scenario, lab: Lab, seen: _Observed) -> Trace:
    """The recorder's trace with what only the lab knows."""
    meta, asked = trace.meta, scenario.migration
    value, names = flags(asked)
    migration = dataclasses.replace(
        meta.migration, flags=value, flag_names=names, parameters=parameters(asked, lab.b.address),
        downtime_limit_ms=seen.downtime_limit_ms, started_wall_ns=seen.started_wall_ns,
    )  # fmt: skip
    about = LabMeta(
        scenario=scenario.name, description=scenario.description, guest=_told(scenario.guest),
        guest_corrupted=seen.corrupted, truth=dataclasses.asdict(scenario.truth) if scenario.truth else {},
    )  # fmt: skip
    host = dataclasses.replace(meta.host, accelerator=lab.accelerator)
    known = trace.with_rows(seen.rows)
    end = meta.end
    if end.outcome != "completed" and not end.error_text:
        # Only the caller of the migration hears why it failed.
        end = dataclasses.replace(end, error_code=seen.outcome.error_code, error_text=seen.outcome.error_text)
    return known.replace_meta(migration=migration, host=host, heartbeat=seen.heartbeat, lab=about, end=end)


def _told(asked: Guest) -> dict[str, Any]:
    """What the guest was set to, without what its pattern does not use."""
    unused = {"bursty": ("hot_ratio",), "hotcold": ("burst_on_s", "burst_off_s")}.get(
        asked.pattern, ("hot_ratio", "burst_on_s", "burst_off_s")
    )
    return {key: value for key, value in dataclasses.asdict(asked).items() if key not in unused}


def _free(folder: Path, stem: str) -> Path:
    path, number = folder / f"{stem}.parquet", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.parquet"
    return path

"""A domain that migrates in imagination: the recorder, its tests and a monitor run on it without libvirt.

`fake:///SCENARIO?seed=N&speed=S&start_ms=T`. What it answers is a pure function of the milliseconds since it was opened
(`FakeDomain.answer`), so what was recorded can be compared with what was served. Call latencies are drawn as they
were measured on busy hosts: p50 1.5 ms, p90 5.2 ms, p99 27 ms; the last poll of a guest that leaves hangs.
"""

from __future__ import annotations

import itertools
import math
import random
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final
from xml.sax.saxutils import escape

from migkit.capture import source as s
from migkit.capture.course import Action, Course, Leg, Plan
from migkit.errors import MigkitError, unknown
from migkit.meta import Domain, Host
from migkit.schema import JOB_CANCELLED, JOB_NONE, JOB_UNBOUNDED
from migkit.units import MIB, NS_PER_MS

_NEVER_MS: Final = 10**9

SCENARIOS: Final[dict[str, Plan]] = {
    "converge": Plan(),
    "fast": Plan(prepare_ms=50, memory_bytes=32 * MIB, dirty_bps=8 * MIB, downtime_limit_ms=30),
    "nonconverging": Plan(dirty_bps=96 * MIB),
    "abort": Plan(dirty_bps=96 * MIB, mishap="abort", mishap_ms=6000),
    "failed": Plan(dirty_bps=96 * MIB, mishap="fail", mishap_ms=4000),
    "vanish": Plan(dirty_bps=96 * MIB, mishap="vanish", mishap_ms=4000),
    "daemon-restart": Plan(dirty_bps=96 * MIB, mishap="restart", mishap_ms=4000),
    "post-copy": Plan(dirty_bps=96 * MIB, postcopy_ms=5000),
    "post-copy-failed": Plan(dirty_bps=96 * MIB, postcopy_ms=5000, mishap="postcopy-fail", mishap_ms=5800),
    "idle": Plan(start_ms=_NEVER_MS),
    "arrived": Plan(prepare_ms=50, memory_bytes=32 * MIB, dirty_bps=8 * MIB, downtime_limit_ms=30),
}

# Log-linear between the measured quantiles.
_LATENCY_MS: Final = ((0.0, 0.4), (0.5, 1.5), (0.9, 5.2), (0.99, 27.0))
_LONGEST_MS: Final = 60.0
_RESTART_MS: Final = 2000
_FINAL_HANG_MS: Final = (1200, 2000)
_MIGRATION_PAUSE = (s.EVENT_SUSPENDED, 1)


def _speed(text: str) -> float:
    value = float(text)
    if not 0.001 <= value <= 1000:
        raise ValueError(f"speed {text!r}: must be more than 0, from 0.001 to 1000")
    return value


def _start_ms(text: str) -> int:
    value = int(text)
    if abs(value) > _NEVER_MS:
        raise ValueError(f"start_ms {text!r}: must be from -{_NEVER_MS} to {_NEVER_MS}")
    return value


def _truth(text: str) -> bool:
    word = text.lower()
    if word not in ("true", "yes", "1", "false", "no", "0"):
        raise ValueError(f"persistent {text!r}: must be true or false")
    return word in ("true", "yes", "1")


OPTIONS: Final[dict[str, Callable[[str], Any]]] = {
    "seed": int, "speed": _speed, "start_ms": _start_ms, "persistent": _truth,
}  # fmt: skip


def draw_latency_ms(random_: random.Random, longest_ms: float = _LONGEST_MS) -> float:
    """One call's latency."""
    q = random_.random()
    for (q0, low), (q1, high) in itertools.pairwise((*_LATENCY_MS, (1.0, longest_ms))):
        if q <= q1:
            return math.exp(math.log(low) + (math.log(high) - math.log(low)) * (q - q0) / (q1 - q0))
    raise AssertionError(q)


def parse_uri(uri: str, known: Mapping[str, Callable[[str], Any]]) -> tuple[str, dict[str, Any]]:
    """The scenario and the options of a fake URI. Raises MigkitError for one that cannot be."""
    try:
        parts = urllib.parse.urlsplit(uri)
        given = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
        options = {key: known[key](value) for key, value in given.items()}
    except KeyError as error:
        raise MigkitError(f"{uri}: {unknown('option', error.args[0], known)}") from None
    except ValueError as error:
        raise MigkitError(f"{uri}: {error}") from None
    return parts.path.strip("/") or "converge", options


class FakeDomain:
    """A Source that can also be acted on.

    Parameters: `scenario`, one of SCENARIOS, or a `plan` of one's own; `seed` of the latencies; `speed`: how many
    seconds of its world pass in one of ours; `persistent`: it stays defined on the source, with its final stats;
    `refuse`: names of actions whose calls fail; `longest_ms`: the longest call.
    """

    def __init__(
        self, scenario: str = "converge", *, plan: Plan | None = None, seed: int = 0, speed: float = 1.0,
        start_ms: int | None = None, name: str = "fake", persistent: bool = False, refuse: frozenset[str] = frozenset(),
        longest_ms: float = _LONGEST_MS,
    ) -> None:  # fmt: skip
        if plan is None:
            if scenario not in SCENARIOS:
                raise MigkitError(str(unknown("fake scenario", scenario, SCENARIOS)))
            plan = SCENARIOS[scenario]
        self.scenario, self.seed, self.speed, self.name = scenario, seed, speed, name
        self.persistent, self.refuse, self.longest_ms = persistent, refuse, longest_ms
        plan = plan if start_ms is None else replace(plan, start_ms=start_ms)
        self.course = Course(plan)
        self._actions: list[Action] = []
        self._random = random.Random(seed)
        self._changed = threading.Condition()
        self._callback: Callable[[s.Event], None] | None = None
        self._closed = False
        self._cut = False
        self._opened_ns = time.monotonic_ns()

    @classmethod
    def from_uri(cls, uri: str, *, name: str = "fake", waits: bool = False) -> FakeDomain:
        """The domain of `fake:///SCENARIO?seed=N&speed=S&start_ms=T`; `waits` until it is migrated."""
        scenario, options = parse_uri(uri, OPTIONS)
        options |= {"start_ms": _NEVER_MS} if waits else {}
        return cls(scenario, name=name, **options)

    @classmethod
    def elsewhere(cls, uri: str) -> FakeDomain:
        """What is asked at the destination `fake:///SCENARIO`; at a mere `fake://HOST` the domain is not there."""
        named = urllib.parse.urlsplit(uri).path.strip("/")
        return cls.from_uri(uri) if named else cls(start_ms=-_NEVER_MS)

    def now_ms(self) -> int:
        """Milliseconds of its world since it was opened."""
        return int((time.monotonic_ns() - self._opened_ns) * self.speed) // NS_PER_MS

    def answer(self, at_ms: int) -> dict[str, Any]:
        """The job stats at a moment, a pure function of it. Raises SourceError where a call would."""
        leg = self.course.leg(at_ms)
        if leg.phase == "left":
            raise self._absent()
        return self.course.stats(at_ms)

    def job_stats(self) -> dict[str, Any]:
        latency_ms = draw_latency_ms(self._random, self.longest_ms)
        at_ms = self.now_ms()
        self._check_connection(at_ms)
        if self._leaves_within(at_ms, latency_ms):
            self._sleep_ms(self._random.uniform(*_FINAL_HANG_MS))
            raise s.SourceError(s.NOT_RUNNING, "Requested operation is not valid: domain is not running")
        self._sleep_ms(latency_ms)
        return self.answer(at_ms)

    def state(self) -> tuple[int, int]:
        at_ms = self.now_ms()
        self._check_connection(at_ms)
        leg = self.course.leg(at_ms)
        match leg.phase:
            case "left":
                if self.persistent:
                    return s.SHUT_OFF, s.SHUT_OFF_MIGRATED
                raise self._absent()
            case "stopped":
                return s.PAUSED, s.PAUSED_MIGRATION
            case "postcopy":
                return s.PAUSED, s.PAUSED_POSTCOPY
            case "broken":
                return s.PAUSED, s.PAUSED_POSTCOPY_FAILED
        return (s.PAUSED, 1) if leg.suspended else (s.RUNNING, 1)

    def facts(self) -> s.Facts:
        domain = Domain(
            name=self.name,
            uuid=f"00000000-0000-4000-8000-{self.seed & 0xFFFFFFFFFFFF:012x}",
            memory_bytes=self.course.plan.memory_bytes,
            vcpus=1,
            has_vfio=False,
        )
        origin = f"fake domain, scenario {self.scenario}, seed {self.seed}"
        return s.Facts(domain=domain, host=Host(name="fake-host"), provenance="simulated", origin=origin)

    def xml(self) -> str:
        """A domain without devices."""
        return f"<domain type='kvm'><name>{escape(self.name)}</name><devices/></domain>"

    def completed_stats(self) -> dict[str, Any] | None:
        stays = self.persistent or self.scenario == "arrived"
        left = stays and self.course.leg(self.now_ms()).phase == "left"
        return self.course.final_stats() if left and not self.course.plan.mishap else None

    def max_downtime_ms(self) -> int | None:
        leg = self.course.leg(self.now_ms())
        return None if leg.phase == "left" else leg.limit_ms

    def subscribe(self, callback: Callable[[s.Event], None]) -> None:
        self._callback = callback
        told = self.course.legs.index(self.course.leg(self.now_ms())) + 1
        threading.Thread(target=self._tell_events, args=(told,), name="fake-domain", daemon=True).start()

    def reopen(self) -> None:
        at_ms = self.now_ms()
        if self._down(at_ms):
            raise s.SourceError(38, "Cannot recv data: Connection reset by peer", lost=True)
        self._cut = False

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abort_job(self) -> None:
        """Cancels the migration."""
        self._act("abort")

    def start_post_copy(self) -> None:
        """Switches to post-copy."""
        self._act("start_post_copy")

    def suspend(self) -> None:
        """Pauses the guest; the migration goes on."""
        self._act("suspend")

    def set_max_downtime(self, limit_ms: int) -> None:
        """Sets the downtime limit."""
        self._act("set_max_downtime", limit_ms)

    def lose_job(self) -> None:
        """What the death of the daemon does to a migration: the job is gone, the guest lives on."""
        self._act("restart")

    @property
    def here(self) -> bool:
        """Whether the guest is still defined on this host."""
        return self.persistent or self.course.leg(self.now_ms()).phase != "left"

    def migrate(self, destination: str, flags: int, parameters: Mapping[str, Any]) -> None:
        """Begins the course now and returns when it has ended; what is asked for changes nothing."""
        with self._changed:
            self.course = Course(replace(self.course.plan, start_ms=self.now_ms()), self._actions)
            self._changed.notify_all()
            while True:
                leg = self.course.leg(self.now_ms())
                if leg.phase in ("left", "broken") or leg.job_type != JOB_UNBOUNDED:
                    break
                self._changed.wait(0.02)
        if self.course.plan.mishap == "restart":
            raise s.SourceError(38, "Cannot recv data: Connection reset by peer", lost=True)
        if leg.phase == "broken":
            raise s.SourceError(9, "operation failed: job 'migration in' failed in post-copy phase")
        if leg.job_type == JOB_CANCELLED:
            raise s.SourceError(78, "operation aborted: migration out: canceled by client")
        if leg.phase != "left":
            raise s.SourceError(
                9, "operation failed: job 'migration out' failed: Unable to write to socket: Broken pipe"
            )

    def _act(self, name: str, argument: int = 0) -> None:
        with self._changed:
            at_ms = self.now_ms()
            if name in self.refuse or self.course.leg(at_ms).job_type != JOB_UNBOUNDED:
                raise s.SourceError(s.NOT_RUNNING, f"Requested operation is not valid: {name} refused")
            self._actions.append(Action(at_ms=at_ms + 1, name=name, argument=argument))
            self.course = Course(self.course.plan, self._actions)
            self._changed.notify_all()

    def _absent(self) -> s.SourceError:
        if self.persistent:
            return s.SourceError(s.NOT_RUNNING, "Requested operation is not valid: domain is not running")
        return s.SourceError(s.NO_DOMAIN, f"Domain not found: no domain with matching name '{self.name}'")

    def _leaves_within(self, at_ms: int, latency_ms: float) -> bool:
        """A call that is under way while the guest leaves does not come back before it is gone."""
        leg = self.course.leg(at_ms)
        return leg.phase != "left" and self.course.leg(at_ms + math.ceil(latency_ms)).phase == "left"

    def _check_connection(self, at_ms: int) -> None:
        plan = self.course.plan
        if plan.mishap == "restart" and not self._cut and self._down(at_ms):
            self._cut = True
            raise s.SourceError(38, "Cannot recv data: Connection reset by peer", lost=True)
        if self._cut:
            raise s.SourceError(1, "internal error: client socket is closed", lost=True)

    def _down(self, at_ms: int) -> bool:
        plan = self.course.plan
        begin_ms = plan.start_ms + plan.mishap_ms
        return plan.mishap == "restart" and begin_ms <= at_ms < begin_ms + _RESTART_MS

    def _sleep_ms(self, duration_ms: float) -> None:
        time.sleep(duration_ms / 1000 / self.speed)

    def _tell_events(self, told: int) -> None:
        while True:
            with self._changed:
                legs = self.course.legs
                if self._closed or told >= len(legs):
                    return
                wait_s = (legs[told].start_ms - self.now_ms()) / 1000 / self.speed
                if wait_s > 0:
                    self._changed.wait(wait_s)
                    continue
            for event in self._events(legs[told - 1], legs[told]):
                if self._callback is not None and not self._cut:
                    self._callback(event)
            told += 1

    def _events(self, before: Leg, leg: Leg) -> Iterator[s.Event]:
        stamp: dict[str, Any] = {"mono_ns": time.monotonic_ns(), "wall_ns": time.time_ns()}
        silent = self.course.plan.mishap == "vanish"
        if self.scenario == "arrived":
            return
        if leg.iteration > before.iteration:
            yield s.Event(kind="iteration", iteration=leg.iteration, **stamp)
        change = _lifecycle(before, leg)
        if change is not None and not silent:
            yield s.Event(kind="lifecycle", lifecycle=change, **stamp)
        if leg.phase == "left" and not silent:
            yield s.Event(kind="job", stats=self.course.final_stats(), **stamp)

    def __repr__(self) -> str:
        return f"<FakeDomain {self.scenario}, seed {self.seed}>"


def _lifecycle(before: Leg, leg: Leg) -> tuple[int, int] | None:
    if leg.phase == "left":
        return s.EVENT_STOPPED, s.STOPPED_MIGRATED
    if leg.phase == before.phase:
        return (s.EVENT_SUSPENDED, 0) if leg.suspended and not before.suspended else None
    changes = {
        "stopped": _MIGRATION_PAUSE,
        "postcopy": (s.EVENT_SUSPENDED, s.SUSPENDED_POSTCOPY),
        "broken": (s.EVENT_SUSPENDED, s.SUSPENDED_POSTCOPY_FAILED),
    }
    return changes.get(leg.phase) if leg.job_type != JOB_NONE else None

"""The thread that asks: a poll at every tick of a drift-free schedule, a sample at every iteration event.

It never waits for the disk: rows go to an inbox, and whoever records takes them from there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any, Final

from migkit.capture.clock import Clock
from migkit.capture.source import Event, Source, SourceError
from migkit.capture.stats_row import row_from_stats
from migkit.schema import JOB_UNBOUNDED
from migkit.units import NS_PER_MS, NS_PER_S

RECONNECT_S: Final = 30.0
RECONNECT_PAUSE_S: Final = 0.5
STATE_EVERY_NS: Final = NS_PER_S

Row = dict[str, Any]
Inbox = SimpleQueue[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The downtime limit, as it was found at a moment."""

    mono_ns: int
    limit_ms: int


class Sampler:
    """Asks a source until it is told to stop.

    What it puts into the inbox: rows (dicts), a Limit whenever the downtime limit is another one, `(from_ns, to_ns)`
    of a lost connection that was opened again, the SourceError of one that was not within `reconnect_s`, any other
    exception that ended it. `hear` is told every event too.
    """

    def __init__(
        self, source: Source, inbox: Inbox, interval_ms: float, *, reconnect_s: float | None = None,
        clock: Clock | None = None, hear: Callable[[Event], None] | None = None,
    ) -> None:  # fmt: skip
        self._hear = hear
        self._source = source
        self._inbox = inbox
        self._reconnect_s = RECONNECT_S if reconnect_s is None else reconnect_s
        self._clock = clock or Clock()
        self._interval_ns = max(1, round(interval_ms * NS_PER_MS))
        self._wake = threading.Condition()
        self._pending: list[Event] = []
        self._ask_state = True
        self._state_ns = 0
        self._job_type: int | None = None
        self._limit_ms: int | None = None
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="migkit-sampler", daemon=True)

    def start(self) -> None:
        """Subscribes to the events and begins to poll."""
        self._source.subscribe(self.take_event)
        self._thread.start()

    def stop(self, wait_s: float = 0.0) -> list[Row]:
        """Ends it, waiting at most `wait_s` for a call that hangs. Returns the rows of iteration events that got no
        sample any more."""
        with self._wake:
            self._stop = True
            self._wake.notify()
        self._thread.join(wait_s)
        with self._wake:
            pending, self._pending = self._pending, []
        return [_event_row(event) for event in pending]

    @property
    def alive(self) -> bool:
        """Whether a call is still under way."""
        return self._thread.is_alive()

    def take_event(self, event: Event) -> None:
        """Called by the source: an iteration event asks for a sample, any other is a row by itself."""
        event = replace(event, mono_ns=self._clock.at_ns(event.mono_ns))
        if self._hear is not None:
            self._hear(event)
        with self._wake:
            if event.kind == "iteration":
                self._pending.append(event)
                self._wake.notify()
                return
            self._ask_state = True
        self._inbox.put(_event_row(event))

    def _run(self) -> None:
        try:
            due_ns = self._clock.now_ns()
            while self._sleep_until(due_ns):
                with self._wake:
                    events, self._pending = self._pending, []
                self._sample(events)
                now_ns = self._clock.now_ns()
                if now_ns >= due_ns:
                    # Slots that a slow call has swallowed are skipped: the grid stays, nothing is made up for.
                    due_ns += self._interval_ns * (1 + (now_ns - due_ns) // self._interval_ns)
        except Exception as error:
            self._inbox.put(error)

    def _sleep_until(self, due_ns: int) -> bool:
        with self._wake:
            while not self._stop and not self._pending:
                left_ns = due_ns - self._clock.now_ns()
                if left_ns <= 0:
                    break
                self._wake.wait(self._clock.real_s(left_ns))
            return not self._stop

    def _sample(self, events: list[Event]) -> None:
        begin_ns = self._clock.now_ns()
        lost: SourceError | None = None
        try:
            answer = row_from_stats(self._source.job_stats())
        except SourceError as error:
            answer = {"error_code": error.code, "error_text": error.text}
            lost = error if error.lost else None
        end_ns = self._clock.now_ns()
        row = {"mono_ns": end_ns, "wall_ns": time.time_ns(), "latency_us": (end_ns - begin_ns) // 1000, **answer}
        state = {} if lost else self._state(row, end_ns)
        row |= state
        if not events:
            self._inbox.put(row | {"source": "poll"})
        for event in events:
            lag_us = (end_ns - event.mono_ns) // 1000
            named = {"source": "iteration", "event_iteration": event.iteration, "event_lag_us": lag_us}
            self._inbox.put(row | named)
        if lost is not None:
            self._reconnect(lost, end_ns)
        elif state and self._job_type == JOB_UNBOUNDED:
            self._look_at_limit()

    def _state(self, row: Row, now_ns: int) -> Row:
        """The domain's state on the first sample, after a lifecycle event, when the job changes, once a second."""
        changed = row.get("job_type") != self._job_type or "error_code" in row
        self._job_type = row.get("job_type")
        if not (self._ask_state or changed or now_ns - self._state_ns >= STATE_EVERY_NS):
            return {}
        self._ask_state, self._state_ns = False, now_ns
        try:
            state, reason = self._source.state()
        except SourceError:
            # The next call for the stats meets the same trouble and tells it.
            return {}
        return {"domain_state": state, "domain_reason": reason}

    def _look_at_limit(self) -> None:
        try:
            limit_ms = self._source.max_downtime_ms()
        except SourceError:
            return
        if limit_ms is not None and limit_ms != self._limit_ms:
            self._limit_ms = limit_ms
            self._inbox.put(Limit(mono_ns=self._clock.now_ns(), limit_ms=limit_ms))

    def _reconnect(self, lost: SourceError, since_ns: int) -> None:
        deadline_ns = time.monotonic_ns() + int(self._reconnect_s * NS_PER_S)
        while time.monotonic_ns() < deadline_ns:
            try:
                self._source.reopen()
            except SourceError as error:
                lost = error
            else:
                self._ask_state = True
                self._inbox.put((since_ns, self._clock.now_ns()))
                return
            with self._wake:
                if self._stop or self._wake.wait_for(lambda: self._stop, RECONNECT_PAUSE_S):
                    return
        raise lost


def _event_row(event: Event) -> Row:
    row: Row = {"mono_ns": event.mono_ns, "wall_ns": event.wall_ns, "source": event.kind}
    if event.kind == "iteration":
        row["event_iteration"] = event.iteration
    elif event.lifecycle is not None:
        row["lifecycle_event"], row["lifecycle_detail"] = event.lifecycle
    return row | row_from_stats(event.stats)


def in_background(call: Callable[[], Any], timeout_s: float | None = None) -> Any:
    """Runs a call that may hang in C on a thread of its own, so that Ctrl-C acts at once. None when it takes longer
    than `timeout_s`."""
    answer: Inbox = SimpleQueue()

    def run() -> None:
        try:
            answer.put((True, call()))
        except BaseException as error:
            answer.put((False, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        succeeded, value = answer.get(timeout=timeout_s)
    except Empty:
        return None
    if not succeeded:
        raise value
    return value

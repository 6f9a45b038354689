"""What a scenario does to a running migration, each at its time, and the rows that tell of it."""

from __future__ import annotations

import heapq
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from migkit.lab.control import Control, Outcome
from migkit.lab.hosts import Host
from migkit.lab.scenario import Scenario
from migkit.units import NS_PER_S

Row = dict[str, Any]


class Actions:
    """The actions of one migration. `rows` grows as they are done."""

    def __init__(self, control: Control, domain: str, scenario: Scenario, began_ns: int) -> None:
        self.rows: list[Row] = []
        self._control, self._domain, self._began_ns = control, domain, began_ns
        self._count = 0
        self._due: list[tuple[float, int, str, float | None]] = []
        for action in scenario.actions:
            self._add(action.at_s, action.do, action.argument)

    def perform(self, ended: threading.Event, timeout_s: float) -> bool:
        """Does what is due until the migration has ended; False when it has not after `timeout_s` seconds."""
        while not ended.is_set():
            now_s = (time.monotonic_ns() - self._began_ns) / NS_PER_S
            if now_s > timeout_s:
                return False
            if self._due and self._due[0][0] <= now_s:
                at_s, _, action, argument = heapq.heappop(self._due)
                self._do(at_s, action, argument)
                continue
            next_s = self._due[0][0] if self._due else timeout_s
            ended.wait(max(0.0, min(next_s - now_s, 1.0)))
        return True

    def undo(self) -> list[str]:
        """Ends what is still in force (a stopped destination, a link that is down); returns what was never done."""
        missed = []
        while self._due:
            at_s, _, action, argument = heapq.heappop(self._due)
            if action in _UNDO.values():
                self._do(at_s, action, argument)
            else:
                missed.append(action)
        return missed

    def _add(self, at_s: float, action: str, argument: float | None) -> None:
        self._count += 1
        heapq.heappush(self._due, (at_s, self._count, action, argument))

    def _do(self, at_s: float, action: str, argument: float | None) -> None:
        host_actions: dict[str, Callable[[], Outcome]] = {
            "stop_destination": lambda: self._signal(self._control.lab.b, signal.SIGSTOP),
            "continue_destination": lambda: self._signal(self._control.lab.b, signal.SIGCONT),
            "link_down": lambda: self._link(up=False),
            "link_up": lambda: self._link(up=True),
        }
        mono_ns, wall_ns = time.monotonic_ns(), time.time_ns()
        known = host_actions.get(action)
        outcome = known() if known else self._control.act(self._domain, action, argument)
        self.rows.append(_row(mono_ns, wall_ns, action, argument, outcome))
        if action in _UNDO and argument is not None:
            self._add(at_s + argument, _UNDO[action], None)

    def _signal(self, host: Host, number: int) -> Outcome:
        pid = host.qemu(self._domain)
        if pid is None:
            return Outcome(succeeded=False, error_text=f"no QEMU of {self._domain} on host {host.name}")
        os.kill(pid, number)
        return Outcome(succeeded=True)

    def _link(self, *, up: bool) -> Outcome:
        self._control.lab.a.set_link(up=up)
        return Outcome(succeeded=True)


_UNDO = {"stop_destination": "continue_destination", "link_down": "link_up"}


def _row(mono_ns: int, wall_ns: int, action: str, argument: float | None, outcome: Outcome) -> Row:
    row: Row = {"mono_ns": mono_ns, "wall_ns": wall_ns, "source": "action", "action": action}
    row["succeeded"] = outcome.succeeded
    if argument is not None:
        row["argument"] = round(argument)
    if not outcome.succeeded:
        row |= {"error_code": outcome.error_code, "error_text": outcome.error_text}
    return row

"""What a scenario does to a running migration, each at its time, and the rows that tell of it."""

from __future__ import annotations

import heapq
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from migkit.lab.control import Control, Outcome
from migkit.lab.hosts import Host
from migkit.lab.scenario import Action, Scenario
from migkit.units import NS_PER_S

Row = dict[str, Any]


class Actions:
    """The actions of one migration. `rows` grows as they are done."""

    def __init__(self, control: Control, domain: str, scenario: Scenario, began_ns: int) -> None:
        self.rows: list[Row] = []
        self._lab, self._control, self._domain, self._began_ns = control.lab, control, domain, began_ns
        self._migration = scenario.migration
        self._due: list[tuple[float, int, Action | str]] = []
        for action in scenario.actions:
            self._add(action.at_s, action)

    def perform(self, ended: threading.Event, timeout_s: float) -> bool:
        """Does what is due until the migration has ended; False when it has not after `timeout_s` seconds."""
        while not ended.is_set():
            now_s = (time.monotonic_ns() - self._began_ns) / NS_PER_S
            if now_s > timeout_s:
                return False
            if self._due and self._due[0][0] <= now_s:
                at_s, _, action = heapq.heappop(self._due)
                self._do(at_s, action)
                continue
            next_s = self._due[0][0] if self._due else timeout_s
            ended.wait(max(0.0, min(next_s - now_s, 1.0)))
        return True

    def undo(self) -> list[str]:
        """Ends what is still in force (a stopped destination, a link that is down); returns what was never done."""
        missed = []
        while self._due:
            at_s, _, action = heapq.heappop(self._due)
            if isinstance(action, str):
                self._do(at_s, action)
            else:
                missed.append(action.do)
        return missed

    def _add(self, at_s: float, action: Action | str) -> None:
        heapq.heappush(self._due, (at_s, next(_COUNT), action))

    def _do(self, at_s: float, action: Action | str) -> None:
        """Does an action of the scenario, or by its name what undoes one."""
        mono_ns, wall_ns = time.monotonic_ns(), time.time_ns()
        outcome: Outcome
        if isinstance(action, str):
            outcome = self._on_hosts()[action](0.0) or _DONE
            self.rows.append(_row(mono_ns, wall_ns, action, None, outcome))
            return
        known = self._on_hosts().get(action.do)
        argument = action.argument
        if known is not None:
            outcome = known(argument or 0.0) or _DONE
        else:
            outcome = self._control.act(self._domain, action.do, argument)
        self.rows.append(_row(mono_ns, wall_ns, action.do, argument, outcome))
        if action.do in _UNDO and action.seconds is not None:
            self._add(at_s + action.seconds, _UNDO[action.do])

    def _on_hosts(self) -> Mapping[str, Callable[[float], Outcome | None]]:
        """What is done to the hosts rather than asked of libvirt; each takes its argument. No answer: it succeeded."""
        a, b = self._lab.hosts
        return {
            "stop_destination": lambda _: self._signal(b, signal.SIGSTOP),
            "continue_destination": lambda _: self._signal(b, signal.SIGCONT),
            "kill_destination": lambda _: self._signal(b, signal.SIGKILL),
            "restart_destination_daemon": lambda _: _restart(b),
            "restart_source_daemon": lambda _: _restart(a),
            "link_down": lambda _: a.set_link(up=False),
            "link_up": lambda _: a.set_link(up=True),
            "slow_link": lambda percent: a.limit_link(self._full_mibps() * percent / 100),
            "restore_link": lambda _: a.limit_link(self._migration.link_mibps),
            "block_port": lambda _: a.block_port(blocked=True),
            "open_port": lambda _: a.block_port(blocked=False),
            "cut_socket": lambda _: Outcome(succeeded=a.cut_socket(b.address)),
        }

    def _full_mibps(self) -> float:
        return self._migration.link_mibps or self._migration.bandwidth_mibps

    def _signal(self, host: Host, number: int) -> Outcome:
        pid = host.qemu(self._domain)
        if pid is None:
            return Outcome(succeeded=False, error_text=f"no QEMU of {self._domain} on host {host.name}")
        os.kill(pid, number)
        return Outcome(succeeded=True)


_COUNT = itertools.count()
_DONE = Outcome(succeeded=True)
_UNDO = {
    "stop_destination": "continue_destination", "link_down": "link_up", "slow_link": "restore_link",
    "block_port": "open_port",
}  # fmt: skip


def _restart(host: Host) -> Outcome:
    if not host.kill_daemon():
        return Outcome(succeeded=False, error_text=f"no libvirtd on host {host.name}")
    host.start_daemon()
    return Outcome(succeeded=True)


def _row(mono_ns: int, wall_ns: int, action: str, argument: float | None, outcome: Outcome) -> Row:
    row: Row = {"mono_ns": mono_ns, "wall_ns": wall_ns, "source": "action", "action": action}
    row["succeeded"] = outcome.succeeded
    if argument is not None:
        row["argument"] = round(argument)
    if not outcome.succeeded:
        row |= {"error_code": outcome.error_code, "error_text": outcome.error_text}
    return row

"""A migration of the lab made by `migkit migrate`, as its own process: the policy runs beside the guest's heartbeat."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migkit.drivers.monitor import ACTIONS
from migkit.errors import MigkitError
from migkit.lab.control import Outcome
from migkit.lab.hosts import Lab
from migkit.lab.scenario import Scenario
from migkit.migration.request import applies


@dataclass(frozen=True, slots=True, kw_only=True)
class Under:
    """The policy that the migration is made under: `words` of `migkit migrate` (--policy, --set, --act, ...)."""

    words: tuple[str, ...]

    @classmethod
    def of(cls, version: str, words: Iterable[str]) -> Under:
        """With one connection, as the scenarios have it, where that version would take eight."""
        single = ("--set", "cpu_limit=1") if applies(version, "cpu_limit") else ()
        return cls(words=(*single, *words))


def without_acts(scenario: Scenario) -> Scenario:
    """The scenario without what a policy does to a migration itself; faults stay."""
    kept = tuple(action for action in scenario.actions if action.do not in ACTIONS.values())
    return dataclasses.replace(scenario, actions=kept)


class Migrating:
    """`migkit migrate` of a guest of the lab, with the scenario's bandwidth; its trace goes to `output`.

    Attributes: `told`, the JSON objects that it has printed so far; `process`, once it runs.
    """

    def __init__(self, lab: Lab, scenario: Scenario, under: Under, output: Path, *, interval_ms: float = 100) -> None:
        self.told: list[dict[str, Any]] = []
        self.process: subprocess.Popen[str] | None = None
        to = f"qemu+tcp://{lab.b.address}/system"
        words = [sys.executable, "-m", "migkit", "migrate", scenario.name, to, "-c", lab.a.uri, "--json"]
        words += ["--destination", lab.b.read_only_uri, "--migrate-uri", f"tcp://{lab.b.address}", "-o", str(output)]
        words += ["--bandwidth", f"{scenario.migration.bandwidth_mibps}Mi", "--interval", f"{interval_ms:g}"]
        words += ["--block-migration"] if scenario.migration.block_copy else []
        words += ["--set", "allow_auto_converge=true"] if scenario.migration.auto_converge else []
        self._words = [*words, *under.words]
        self._lock = threading.Lock()
        self._stopped = False

    def begun(self) -> bool:
        """Whether the migration runs."""
        return bool(self.told)

    def run(self) -> Outcome:
        """Migrates, and returns how that ended. Raises MigkitError when migkit itself fails."""
        with self._lock:
            if self._stopped:
                raise MigkitError("lab: the migration was stopped before it began")
            # A session of its own: the terminal's Ctrl-C reaches the lab alone, which then ends this.
            process = self.process = subprocess.Popen(
                self._words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                start_new_session=True,
            )  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        with process.stdout, process.stderr:
            for line in process.stdout:
                self.told.append(json.loads(line))
            said = process.stderr.read().strip()
        process.wait()
        end = next((event for event in reversed(self.told) if event["event"] == "end"), None)
        if end is None:
            raise MigkitError(
                f"lab: {said.splitlines()[-1].removeprefix('migkit: ') if said else 'migkit said nothing'}"
            )
        return Outcome(
            succeeded=end["outcome"] == "completed", error_code=end["error_code"], error_text=end["error_text"] or ""
        )

    def close(self) -> None:
        """Ends it if it still runs: Ctrl-C cancels the migration, a second one stops watching, then not politely."""
        with self._lock:
            self._stopped, process = True, self.process
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGKILL):
            if process is None or process.poll() is not None:
                return
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)

"""KubeVirt's monitor around a rule: performs its calls, aborts asynchronously, settles the migration's result.

Every driver goes through here, so that a replay, a live migration and the conformance cases decide alike. What a
version does with results and aborts: kubevirt/kubevirt pkg/virt-launcher/virtwrap/live-migration-source.go and
pkg/virt-launcher/metadata, v0.59.0 to main at d923fdb815.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from migkit.policies import base, compiled, events, polling
from migkit.policies.base import Options, PlainState, Slot, Wakes
from migkit.policies.versions import Family

CALLS = {
    base.START_POST_COPY: "MigrateStartPostCopy",
    base.SUSPEND: "Suspend",
    base.SET_MAX_DOWNTIME: "MigrateSetMaxDowntime",
    base.ABORT: "AbortJob",
}
ACTIONS = {
    "MigrateStartPostCopy": "start_post_copy",
    "Suspend": "suspend",
    "MigrateSetMaxDowntime": "set_max_downtime",
    "AbortJob": "abort",
}
# Parts of QEMU's and libvirt's messages that KubeVirt looks for.
_CANCELLED_BY_CLIENT = "canceled by client"
_VOLUME_TOO_SMALL = "has to be smaller or equal to the actual size of the containing file"


class Hypervisor(Protocol):
    """Where the monitor's calls go. `row` is the wake-up they belong to."""

    def call(self, row: int, name: str, argument: int | None) -> bool:
        """Performs libvirt's `name`; whether it succeeded."""
        ...

    def job_type(self, row: int) -> int | None:
        """The job type that GetJobInfo tells, None when it fails."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call that the monitor made. `reason` is one of base.REASON_NAMES; abort calls of the asynchronous task carry
    the reason of the decision behind them."""

    row: int
    name: str
    argument: int | None
    succeeded: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the monitor made of the migration. `reason`: stuck, timeout, aborted, job-failed, migrate-failed,
    migrate-error, volume-too-small, or empty; `detail`: the seconds or the error behind it."""

    ended: bool = False
    failed: bool = False
    reason: str = ""
    detail: str = ""


class Monitor:
    """One migration under one family of rules.

    `errors` gives the text of the first error of the migrate call up to a wake-up. `room` is the number of iteration
    events that there can be. `compiled_form` runs the rules compiled by numba; then `run` wants `Wakes` of arrays,
    else of lists. While a call is made, `calling_for` is the reason for it.
    """

    def __init__(
        self,
        family: Family,
        options: Options,
        hypervisor: Hypervisor,
        *,
        errors: Callable[[int], str] = lambda row: "",
        migrated_volumes: bool = False,
        room: int = 0,
        compiled_form: bool = False,
    ) -> None:
        self.family, self.hypervisor, self.errors = family, hypervisor, errors
        self.migrated_volumes = migrated_volumes
        self.calls: list[Call] = []
        self.result = Result()
        self.own_abort_reason = ""
        self.calling_for = ""
        self._abort_asked = False
        self.options = self._registered(options)
        self.state: Any = compiled.new_state() if compiled_form else PlainState()
        base.reset(self.state, self.options)
        self.slots: Any = compiled.new_slots(room + 1) if compiled_form else [Slot() for _ in range(room + 1)]
        plain = {"polling": polling.advance, "events": events.advance}
        self._advance: Any = compiled.advance(family.rules) if compiled_form else plain[family.rules]

    def _registered(self, options: Options) -> Options:
        """Without iteration events stall detection falls back to the rules of the deadlines."""
        if options.stall and not self.hypervisor.call(-1, "DomainEventMigrationIterationRegister", None):
            return options._replace(stall=False)
        return options

    @property
    def finished(self) -> bool:
        """Whether the monitor has ended by itself."""
        return bool(self.state.finished)

    @property
    def abort_status(self) -> str:
        """KubeVirt's word for it: empty, Aborting, Succeeded or Failed."""
        return base.ABORT_NAMES[self.state.abort_status]

    def run(self, wakes: Wakes, i0: int, i1: int) -> int:
        """Lives through the wake-ups i0..i1; returns the row where the monitor ended, else i1."""
        row: int = i0
        while row < i1 or self._abort_asked:
            stop = row + 1 if self._abort_asked else i1
            row, action, argument, reason = self._advance(self.state, self.slots, self.options, wakes, row, stop)
            if action == base.FINISH:
                self._finish(row, reason, argument)
                return row
            if action == base.NONE:
                if self._abort_asked:
                    self._abort_asked = False
                    self._abort_task(row - 1)
            elif action == base.CANCEL:
                self.own_abort_reason = base.REASON_NAMES[reason]
                self._ask_abort()
            else:
                limit = int(argument) if action == base.SET_MAX_DOWNTIME else None
                self.state.succeeded = int(self._call(row, CALLS[action], limit, base.REASON_NAMES[reason]))
        return row

    def _call(self, row: int, name: str, argument: int | None, reason: str) -> bool:
        self.calling_for = reason
        succeeded = self.hypervisor.call(row, name, argument)
        self.calls.append(Call(row=row, name=name, argument=argument, succeeded=succeeded, reason=reason))
        return succeeded

    # --- aborts -----------------------------------------------------------------------------------------------------

    def cancel_by_user(self, row: int) -> None:
        """The user cancels the migration, just before the wake-up `row`."""
        if self.family.rules == "polling":
            self._cancel_polling(row)
            return
        self.own_abort_reason = "user"
        self._ask_abort()
        if self._abort_asked:
            self._abort_asked = False
            self._abort_task(row)

    def _cancel_polling(self, row: int) -> None:
        if self.state.abort_status == base.ABORTING or self.result.ended:
            return
        self.state.abort_status = base.ABORTING
        if self.hypervisor.job_type(row) != base.JOB_TYPE_ACTIVE:
            return
        succeeded = self._call(row, "AbortJob", None, "user")
        if succeeded and self.family.settles_by == "1.6":
            self._settle(Result(ended=True, failed=True, reason="aborted"), base.ABORTED)
        elif not succeeded and self.family.settles_by != "post-copy era":
            self.state.abort_status = base.ABORT_FAILED

    def _ask_abort(self) -> None:
        if not self.result.ended and not events.abort_in_progress(self.state.abort_status):
            self.state.abort_status = base.ABORTING
            self._abort_asked = True

    def _abort_task(self, row: int) -> None:
        active = self.hypervisor.job_type(row) == base.JOB_TYPE_ACTIVE
        done = active and self._call(row, "AbortJob", None, self.own_abort_reason)
        self.state.abort_status = base.ABORTED if done else base.ABORT_FAILED

    # --- results ----------------------------------------------------------------------------------------------------

    def _finish(self, row: int, reason: int, seconds: int) -> None:
        if reason == base.MIGRATE_ERROR:
            self._migrate_returned(self.errors(row))
        elif reason == base.JOB_COMPLETED:
            self._settle(Result(ended=True), base.NOT_ABORTED)
        elif reason == base.JOB_FAILED:
            detail = self.errors(row) if self.state.error_stored else ""
            said = "migrate-error" if detail else "job-failed"
            self._settle(Result(ended=True, failed=True, reason=said, detail=detail), base.NOT_ABORTED)
        elif reason == base.JOB_CANCELLED:
            self._settle(Result(ended=True, failed=True, reason="aborted"), base.ABORTED)
        else:
            said = base.REASON_NAMES[reason]
            self._settle(Result(ended=True, failed=True, reason=said, detail=str(seconds)), base.ABORTED)

    def _migrate_returned(self, error: str) -> None:
        if self.family.rules == "events":
            self._settle(Result(ended=True, failed=True, **self._rewritten(error)), base.NOT_ABORTED)
            return
        abort_status = base.ABORTED if _CANCELLED_BY_CLIENT in error else base.NOT_ABORTED
        said = "migrate-failed"
        if self.family.disruption_gate and self.migrated_volumes and _VOLUME_TOO_SMALL in error:
            said = "volume-too-small"
        self._settle(Result(ended=True, failed=True, reason=said, detail=error), abort_status)

    def _rewritten(self, error: str) -> dict[str, str]:
        by_user = self.state.abort_status == base.ABORTED
        if by_user if self.family.settles_by == "main" else _CANCELLED_BY_CLIENT in error:
            return {"reason": "aborted", "detail": ""}
        small = _VOLUME_TOO_SMALL in " ".join(error.split())
        return {"reason": "volume-too-small" if small else "migrate-error", "detail": error}

    def _settle(self, result: Result, abort_status: int) -> None:
        """Stores a result the way the version does; the first one wins."""
        if self.family.rules == "events":
            self.result = self.result if self.result.ended else result
            return
        if self.family.settles_by == "1.6":
            rejected = abort_status == base.NOT_ABORTED and self.state.abort_status == base.ABORTING
            if self.result.ended or rejected:
                return
            self.state.abort_status = abort_status
        elif abort_status != base.NOT_ABORTED:
            self.state.abort_status = abort_status
        self.result = self.result if self.result.ended else result

"""How a migration ended, from what was seen and nothing else: the same rows always give the same verdict.

Never judged by `remaining == 0`: a job that failed or was cancelled reads all zeros for one or two seconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Final

from migkit.capture import source as s
from migkit.failures import CANCELLED
from migkit.meta import End
from migkit.schema import BY_KEY, JOB_CANCELLED, JOB_COMPLETED, JOB_FAILED, JOB_NONE, OPERATION_MIGRATION_OUT
from migkit.units import NS_PER_S

# How long other witnesses (events, the domain's state) are waited for once the job or the domain has gone.
WITNESS_NS: Final = 5 * NS_PER_S
# How long a verdict waits for what belongs to it: the guest's leaving, the all-zero stats, the hanging last poll.
SETTLE_NS: Final = int(2.5 * NS_PER_S)

# The action that is the migrate call itself; its row comes when the call has returned.
MIGRATE: Final = "migrate"

_OTHER_STOPS: Final = {0: "shut down", 1: "destroyed", 2: "crashed", 4: "saved", 5: "failed", 6: "from a snapshot"}
_KEYS: Final = {column.name: key for key, column in BY_KEY.items()}
_STRENGTH: Final = {"job": 4, "call": 3, "type": 2, "event": 2, "left": 1, "state": 1}
_IN_POST_COPY: Final = "failed in post-copy phase"


class Ending:
    """Collects the evidence row by row.

    Attributes:
        end: the verdict so far, None while the migration runs for all we know.
        settled: the verdict is there and nothing that belongs to it is missing.
    """

    def __init__(self) -> None:
        self.end: End | None = None
        self._strength = 0
        self._since_ns = 0
        self._suspect_ns: int | None = None
        self._last_error: tuple[int, str] | None = None
        self._cut: tuple[int | None, str] = (None, "")
        self._left = self._aborted = self._spread = False
        self._quiet = False

    def see(self, row: Mapping[str, Any]) -> None:
        """Takes one row into account."""
        if row["source"] == "job":
            self._see_job(row)
        elif row["source"] == "action":
            self._see_call(row)
        elif row["source"] == "lifecycle":
            self._see_lifecycle(row)
        elif row.get("error_code") is not None:
            self._see_error(row)
        elif row.get("job_type") is not None:
            self._see_stats(row)

    def settled(self, now_ns: int) -> bool:
        """Whether the recording may stop."""
        if self.end is None:
            return False
        whole = self._left if self.end.outcome == "completed" else self._quiet
        return (whole and self._strength > _STRENGTH["left"]) or now_ns - self._since_ns > SETTLE_NS

    def overdue(self, now_ns: int) -> bool:
        """The job or the domain has gone, and nobody said in time how it ended."""
        return self.end is None and self._suspect_ns is not None and now_ns - self._suspect_ns > WITNESS_NS

    def last_error(self) -> tuple[int | None, str]:
        """The newest error that a call met."""
        return self._last_error or (None, "")

    def _see_job(self, row: Mapping[str, Any]) -> None:
        if row.get("operation") not in (None, OPERATION_MIGRATION_OUT):
            return
        if row.get("success") is False:
            self._judge(row, "job", "failed", "job-completed event without success", row.get("error_message") or "")
            return
        # An earlier, weaker verdict may stand; the event carries the final numbers.
        final = {_KEYS[name]: value for name, value in row.items() if name in _KEYS and value is not None}
        self._judge(row, "job", "completed", "job-completed event", completed=final)

    def _see_call(self, row: Mapping[str, Any]) -> None:
        """The migrate call, where whoever records made it; other actions prove nothing, but that an abort was asked for
        tells a cancelled migration from a failed one: QEMU may meet the closed socket before it has cancelled."""
        self._aborted |= _is_abort(row)
        if row["action"] != MIGRATE:
            return
        if row.get("succeeded") is None:
            # The connection broke under it: that is why whoever called never heard the end.
            self._cut = row.get("error_code"), row.get("error_text") or ""
            return
        if row["succeeded"]:
            self._judge(row, "call", "completed", "the migrate call succeeded")
            return
        code, text = row["error_code"], row.get("error_text") or ""
        failed = "postcopy-failed" if _IN_POST_COPY in text else "failed"
        told = self.end is not None and self.end.outcome == "cancelled"
        outcome = "cancelled" if told or CANCELLED in text else failed
        self._judge(row, "call", outcome, "the migrate call failed", text, code=code)

    def _see_lifecycle(self, row: Mapping[str, Any]) -> None:
        event, detail = row["lifecycle_event"], row["lifecycle_detail"]
        if (event, detail) == (s.EVENT_SUSPENDED, s.SUSPENDED_POSTCOPY_FAILED):
            self._is_spread()
            self._judge(row, "event", "postcopy-failed", "lifecycle event: suspended, post-copy failed")
        elif event == s.EVENT_STOPPED:
            self._left = True
            if detail == s.STOPPED_MIGRATED:
                self._judge(row, "left", "completed", "lifecycle event: stopped, migrated")
            else:
                how = _OTHER_STOPS.get(detail, f"detail {detail}")
                self._judge(row, "left", "failed", f"lifecycle event: the guest stopped on the source ({how})")

    def _see_error(self, row: Mapping[str, Any]) -> None:
        self._last_error = row["error_code"], row.get("error_text") or ""
        if row["error_code"] in (s.NO_DOMAIN, s.NOT_RUNNING):
            self._quiet = True
            self._suspect(row)
            self._see_state(row)

    def _see_stats(self, row: Mapping[str, Any]) -> None:
        text = row.get("error_message") or ""
        if row["job_type"] == JOB_FAILED:
            self._judge(row, "type", "failed", "job type failed", text)
        elif row["job_type"] == JOB_CANCELLED:
            self._judge(row, "type", "cancelled", "job type cancelled", text)
        elif row["job_type"] == JOB_COMPLETED:
            self._judge(row, "type", "completed", "job type completed")
        elif row["job_type"] == JOB_NONE:
            self._quiet = True
            self._suspect(row)
            self._see_state(row)
        else:
            self._suspect_ns = None

    def _is_spread(self) -> None:
        """Post-copy has failed, whatever else the call or the job tell of their end."""
        self._spread = True
        self.end = self.end and self._as_known(self.end)

    def _as_known(self, end: End) -> End:
        """A failure in the light of what else was seen."""
        if self._spread and end.outcome == "failed":
            return dataclasses.replace(end, outcome="postcopy-failed", evidence=f"{end.evidence}, in post-copy")
        return _cancelled(end) if self._aborted else end

    def _see_state(self, row: Mapping[str, Any]) -> None:
        """The job has gone: what has become of the guest?"""
        state, reason = row.get("domain_state"), row.get("domain_reason")
        if state == s.RUNNING:
            self._judge(row, "state", "failed", "the job is gone and the guest runs on the source")
        elif (state, reason) == (s.SHUT_OFF, s.SHUT_OFF_MIGRATED):
            self._left = True
            self._judge(row, "state", "completed", "domain state: shut off, migrated")
        elif (state, reason) == (s.PAUSED, s.PAUSED_POSTCOPY_FAILED):
            self._is_spread()
            self._judge(row, "state", "postcopy-failed", "domain state: paused, post-copy failed")
        elif state == s.PAUSED and reason != s.PAUSED_MIGRATION:
            self._judge(row, "state", "failed", "the job is gone and the guest is paused on the source")

    def _suspect(self, row: Mapping[str, Any]) -> None:
        if self._suspect_ns is None:
            self._suspect_ns = row["mono_ns"]

    def _judge(
        self, row: Mapping[str, Any], witness: str, outcome: str, evidence: str, text: str = "",
        completed: dict[str, Any] | None = None, code: int | None = None,
    ) -> None:  # fmt: skip
        if _STRENGTH[witness] <= self._strength:
            return
        if self.end is None:
            self._since_ns = row["mono_ns"]
        self._strength = _STRENGTH[witness]
        if witness == "state" and outcome == "failed" and not text:
            code, text = self._cut
        end = End(
            outcome=outcome, evidence=evidence, error_code=code, error_text=text, completed=completed,
            completed_from="event" if completed else "",
        )  # fmt: skip
        self.end = self._as_known(end)


def after_abort(end: End, rows: Iterable[Mapping[str, Any]]) -> End:
    """The verdict of a recorder that did not see what was asked of the migration, once those rows are known."""
    return _cancelled(end) if any(map(_is_abort, rows)) else end


def _is_abort(row: Mapping[str, Any]) -> bool:
    return row.get("action") == "abort" and bool(row.get("succeeded"))


def _cancelled(end: End) -> End:
    if end.outcome != "failed":
        return end
    return dataclasses.replace(end, outcome="cancelled", evidence=f"{end.evidence}, after an abort", failure=None)


def judge(rows: Iterable[Mapping[str, Any]]) -> End | None:
    """The verdict on a whole recording; None when its rows prove none."""
    ending = Ending()
    for row in rows:
        ending.see(row)
    return ending.end

"""The end is told by evidence, and only by that."""

from __future__ import annotations

import pytest

from migkit.capture import source as s
from migkit.capture.outcome import SETTLE_NS, WITNESS_NS, Ending, after_abort, judge
from migkit.failures import NOWHERE, failure_of

MS = 1_000_000
ZEROS = {"data_remaining_bytes": 0, "memory_remaining_bytes": 0}


def poll(ms: int, job_type: int | None = 2, **columns):
    return {"source": "poll", "mono_ns": ms * MS, "latency_us": 900, "job_type": job_type, **columns}


def error(ms: int, code: int, **columns):
    return {"source": "poll", "mono_ns": ms * MS, "error_code": code, "error_text": f"error {code}", **columns}


def lifecycle(ms: int, event: int, detail: int):
    return {"source": "lifecycle", "mono_ns": ms * MS, "lifecycle_event": event, "lifecycle_detail": detail}


def job(ms: int, **columns):
    return {"source": "job", "mono_ns": ms * MS, "operation": 5, **columns}


LEFT = lifecycle(900, s.EVENT_STOPPED, s.STOPPED_MIGRATED)


@pytest.mark.parametrize(
    ("rows", "outcome"),
    [
        ([poll(100), job(200, downtime_ms=33)], "completed"),
        ([poll(100), error(200, 55), LEFT, job(901)], "completed"),
        ([poll(100), LEFT], "completed"),
        ([poll(100), error(200, 55, domain_state=s.SHUT_OFF, domain_reason=s.SHUT_OFF_MIGRATED)], "completed"),
        ([poll(100), poll(200, 4, **ZEROS)], "failed"),
        ([poll(100), job(200, success=False, error_message="no route")], "failed"),
        ([poll(100), poll(200, 0, domain_state=s.RUNNING, domain_reason=1)], "failed"),
        ([poll(100), poll(200, 0, domain_state=s.PAUSED, domain_reason=1)], "failed"),
        ([poll(100), lifecycle(200, s.EVENT_STOPPED, 2)], "failed"),
        ([poll(100), poll(200, 5, **ZEROS)], "cancelled"),
        ([poll(100), poll(200, 5, **ZEROS), poll(300, 0, domain_state=s.RUNNING, domain_reason=1)], "cancelled"),
        ([poll(100), lifecycle(200, s.EVENT_SUSPENDED, s.SUSPENDED_POSTCOPY_FAILED), poll(300)], "postcopy-failed"),
        ([poll(100), poll(200, 0, domain_state=s.PAUSED, domain_reason=13)], "postcopy-failed"),
    ],
)
def test_what_proves_an_outcome(rows, outcome):
    assert judge(rows).outcome == outcome
    assert judge(rows).evidence


@pytest.mark.parametrize(
    "rows",
    [
        [poll(100, **ZEROS)],
        [poll(100), poll(200, **ZEROS, time_elapsed_ms=9)],
        [poll(100), error(200, 38), error(300, 1)],
        [poll(100), error(200, 55), error(300, 42)],
        [poll(100), poll(200, 0)],
        [poll(100), poll(200, 0, domain_state=s.PAUSED, domain_reason=s.PAUSED_MIGRATION)],
        [poll(100), lifecycle(200, s.EVENT_SUSPENDED, 1)],
        [poll(100), job(200, operation=9)],
    ],
)
def test_what_proves_nothing(rows):
    assert judge(rows) is None


def test_nothing_left_to_send_is_not_the_end():
    ending = Ending()
    for k in range(100):
        ending.see(poll(100 * k, **ZEROS))
    assert ending.end is None
    assert not ending.overdue(10**12)


@pytest.mark.parametrize("order", [[LEFT, job(901, downtime_ms=33)], [job(899, downtime_ms=33), LEFT]])
def test_the_event_brings_the_final_stats_by_libvirts_own_keys(order):
    end = judge([poll(100), *order])
    assert end.completed == {"operation": 5, "downtime": 33}
    assert end.completed_from == "event"


def test_a_completed_migration_waits_for_the_guest_to_leave():
    ending = Ending()
    ending.see(poll(100))
    ending.see(job(850))
    assert not ending.settled(860 * MS)
    ending.see(LEFT)
    assert ending.settled(901 * MS)


def test_a_guest_that_left_waits_for_the_final_stats_but_not_for_ever():
    ending = Ending()
    ending.see(LEFT)
    assert not ending.settled(901 * MS)
    assert ending.settled(900 * MS + SETTLE_NS + 1)


def test_a_cancelled_migration_waits_until_its_zeros_are_over():
    ending = Ending()
    ending.see(poll(200, 5, **ZEROS))
    assert not ending.settled(300 * MS)
    ending.see(poll(400, 0))
    assert ending.settled(401 * MS)


def test_a_domain_that_is_gone_without_a_word_is_given_up_after_a_while():
    ending = Ending()
    ending.see(error(200, 42))
    assert not ending.overdue(300 * MS)
    assert ending.overdue(200 * MS + WITNESS_NS + 1)
    assert ending.last_error() == (42, "error 42")


def test_a_job_that_comes_back_was_not_gone():
    ending = Ending()
    ending.see(error(200, 55))
    ending.see(poll(300))
    assert not ending.overdue(10**12)


REAL = ("precopy_converge_32", "block_raw", "postcopy_switch", "stall_link", "noconverge_abort", "src_daemon_restart")


@pytest.mark.parametrize("name", REAL)
def test_real_migrations_are_judged_as_they_really_ended(name, bundled):
    trace = bundled[name]
    rows = [{k: v for k, v in row.items() if v == v and v is not None} for row in _plain(trace)]
    # The polling script never asked for the state; the guest of the restarted daemon was seen running.
    if name == "src_daemon_restart":
        rows[-1] |= {"domain_state": s.RUNNING, "domain_reason": 1}
    # It polled before the job began, which migkit's recorder does not keep.
    first = next(k for k, row in enumerate(rows) if row.get("job_type") == 2)
    assert judge(rows[first:]).outcome == trace.meta.end.outcome


def _plain(trace):
    return trace.samples.astype(object).where(trace.samples.notna(), None).to_dict("records")


def call(ms: int, succeeded: bool | None, text: str = "", action: str = "migrate"):
    known = {"error_code": 9, "error_text": text} if text else {}
    return {"source": "action", "mono_ns": ms * MS, "action": action, "succeeded": succeeded, **known}


@pytest.mark.parametrize(
    ("rows", "outcome"),
    [
        ([poll(100), call(200, True)], "completed"),
        ([poll(100), call(200, False, "migration out: canceled by client")], "cancelled"),
        ([poll(100), call(200, False, "Unable to write to socket")], "failed"),
        ([poll(100), call(200, False, "job 'migration in' failed in post-copy phase")], "postcopy-failed"),
        ([poll(100), poll(200, 0, domain_state=s.RUNNING, domain_reason=1), call(300, False, "canceled by client")],
         "cancelled"),
        ([poll(100), lifecycle(200, s.EVENT_SUSPENDED, 8), call(300, False, "failed in post-copy phase")],
         "postcopy-failed"),
    ],
)  # fmt: skip
def test_the_migrate_call_tells_how_it_ended(rows, outcome):
    assert judge(rows).outcome == outcome


def test_the_event_has_the_numbers_whatever_the_call_has_said_before():
    end = judge([poll(100), call(200, True), job(201, downtime_ms=33)])
    assert (end.outcome, end.completed["downtime"]) == ("completed", 33)


def test_a_call_that_broke_off_with_its_connection_is_why_it_failed():
    """The source's daemon went: whoever called is told nothing else, and the guest is found running afterwards."""
    broken = call(200, None, "Cannot recv data: Connection reset by peer") | {"error_code": 38}
    end = judge([poll(100), broken, poll(900, 0, domain_state=s.RUNNING, domain_reason=1)])
    assert (end.outcome, end.error_code, end.error_text) == (
        "failed", 38, "Cannot recv data: Connection reset by peer",
    )  # fmt: skip


FAILED_AFTER = [
    poll(300, 4, **ZEROS),
    poll(300, 0, domain_state=s.RUNNING, domain_reason=1),
    call(300, False, "Unable to write to socket: Broken pipe"),
]


@pytest.mark.parametrize("last", FAILED_AFTER)
def test_a_recorder_that_did_not_see_the_abort_is_told_of_it(last):
    """In the lab what is asked of the migration is known beside the recorder; a completed one stays completed."""
    aborted, refused = call(200, True, action="abort"), call(200, False, "no", action="abort")
    seen = judge([poll(100), last])
    assert after_abort(seen, [aborted]).outcome == "cancelled"
    assert after_abort(seen, [aborted]).evidence == f"{seen.evidence}, after an abort"
    assert after_abort(seen, [refused]) == seen
    completed = judge([poll(100), job(900), LEFT])
    assert after_abort(completed, [aborted]) == completed


@pytest.mark.parametrize("last", FAILED_AFTER)
def test_what_fails_after_an_abort_was_cancelled(last):
    aborted = call(200, True, action="abort")
    refused = call(200, False, "cannot abort in post-copy", action="abort")
    assert judge([poll(100), aborted, last]).outcome == "cancelled"
    assert judge([poll(100), refused, last]).outcome == "failed"
    assert judge([poll(100), last]).outcome == "failed"


def test_a_cancelled_job_stays_so_whatever_the_call_says():
    end = judge([poll(100), poll(200, 5, **ZEROS), call(300, False, "Unable to write to socket: Broken pipe")])
    assert (end.outcome, end.error_code) == ("cancelled", 9)


@pytest.mark.parametrize(
    "row",
    [
        call(200, None, "client socket is closed"),
        call(200, False, "domain is not running", action="abort"),
        call(200, False, "Domain not found", action="start_post_copy") | {"error_code": 42},
    ],
)
def test_a_lost_call_and_other_actions_prove_nothing(row):
    ending = Ending()
    ending.see(poll(100))
    ending.see(row)
    assert ending.end is None
    assert not ending.overdue(10**15)


GONE = "Domain not found: no domain with matching uuid '7b116e14' (busy)"
SPREAD = lifecycle(200, s.EVENT_SUSPENDED, s.SUSPENDED_POSTCOPY_FAILED)


@pytest.mark.parametrize(
    "rows",
    [
        [SPREAD, call(204, False, GONE)],
        [call(196, False, GONE), SPREAD],
        [call(196, False, GONE), poll(300, 0, domain_state=s.PAUSED, domain_reason=13)],
        [SPREAD, job(204, success=False, error_message=GONE)],
    ],
)
def test_a_post_copy_that_has_failed_stays_one_whatever_the_call_tells_of_its_end(rows):
    end = judge([poll(100), *rows])
    assert (end.outcome, end.error_text) == ("postcopy-failed", GONE)
    failure = failure_of(end)
    assert failure is not None
    assert (failure.what, failure.where_guest_runs, failure.original) == ("post-copy failed", NOWHERE, GONE)

"""The monitor beside a recording: its channel, its clock, and whoever looks on."""

from __future__ import annotations

import pytest

import migkit as mk
from migkit.capture.clock import Clock
from migkit.capture.fake import FakeDomain
from migkit.capture.source import RUNNING, Event, SourceError
from migkit.drivers.beside import Beside
from migkit.drivers.evidence import deadlines
from migkit.drivers.live import live
from migkit.drivers.wakes import Woken
from migkit.units import NS_PER_MS, NS_PER_S


def beside(policy: mk.policies.Policy) -> Beside:
    domain = FakeDomain("idle")
    return Beside(
        domain, domain.facts(), policy, Clock(), act=False, data_size_gb=None, has_vfio=None, limit_s=None, call=None
    )


def heard(watching: Beside, count: int) -> int:
    for number in range(count):
        watching.hear(Event(kind="iteration", mono_ns=0, wall_ns=0, iteration=number))
    return watching._events.qsize()


def test_events_that_do_not_fit_the_channel_are_dropped_as_kubevirts_are():
    assert heard(beside(mk.policy("kubevirt-1.9-stall")), 40) == 16


def test_a_rule_that_does_not_hear_iterations_is_not_woken_by_them():
    assert heard(beside(mk.policy("kubevirt-1.9")), 40) == 0


def woken(policy: mk.policies.Policy, *remaining: int) -> Woken:
    """A monitor that has seen these amounts, 400 ms apart."""
    session = Woken(policy, data_size_gb=1, has_vfio=False, start_ns=0)
    for number, left in enumerate(remaining):
        stats = {"type": 2, "time_elapsed": number * 400, "data_remaining": left, "memory_iteration": 1}
        session.wake(number * 400 * NS_PER_MS, stats, (RUNNING, 1))
    return session


def test_deadlines_pass_with_the_first_whole_second_behind_them():
    policy = mk.kubevirt("1.8", completion_timeout_per_gib=8, progress_timeout=3)
    session = woken(policy, 1000, 900, 900)
    assert deadlines(session.monitor, session.t_ns) == [
        ("progress timeout", pytest.approx(3.6)), ("completion deadline", pytest.approx(8.2))
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["kubevirt-1.4", "kubevirt-1.8", "kubevirt-1.9", "kubevirt-1.9-stall"])
def test_what_is_announced_happens_then(name):
    policy = mk.policy(name, completion_timeout_per_gib=4)
    session = woken(policy, *[1000] * 3)
    (_, in_s), *_ = deadlines(session.monitor, session.t_ns)
    due_ns = session.t_ns + round(in_s * NS_PER_S)
    before = len(session.told)
    stats = {"type": 2, "time_elapsed": 4000, "data_remaining": 1000, "memory_iteration": 1}
    session.wake(due_ns - NS_PER_MS, stats, (RUNNING, 1))
    assert len(session.told) == before
    session.wake(due_ns + NS_PER_MS, stats, (RUNNING, 1))
    assert [told["action"] for told in session.told[before:]] == ["abort"]


def test_nothing_is_announced_once_the_migration_is_aborted():
    session = woken(mk.kubevirt("1.9", completion_timeout_per_gib=1), *[1000] * 8)
    assert [told["action"] for told in session.told] == ["abort"]
    assert deadlines(session.monitor, session.t_ns) == []


def test_a_terminal_that_has_gone_does_not_end_the_policy():
    class Gone:
        def __getattr__(self, name):
            raise BrokenPipeError

    domain = FakeDomain("nonconverging", speed=25)
    found = live(
        domain, mk.kubevirt("1.8", completion_timeout_per_gib=3), act=True,
        watch=lambda watching: setattr(watching, "view", Gone()),
    )  # fmt: skip
    domain.close()
    assert list(found.decisions["action"]) == ["abort"]
    assert found.trace.meta.end.outcome == "cancelled"


def test_a_defect_in_the_monitor_is_told_and_not_silent():
    class Broken(FakeDomain):
        def state(self):
            raise ZeroDivisionError("a defect")

    domain = Broken("nonconverging", speed=25)
    with pytest.raises((mk.MigkitError, ZeroDivisionError), match="a defect"):
        live(domain, mk.kubevirt("1.8"), limit_s=20)
    domain.close()


def test_a_lost_migrate_call_proves_nothing():
    domain = FakeDomain("daemon-restart", speed=10, start_ms=10**9)
    found = mk.migrate(domain, "fake://there", mk.kubevirt("1.8"), limit_s=120)
    domain.close()
    rows = found.trace.samples[found.trace.samples["action"] == "migrate"]
    assert rows["error_code"].tolist() == [38]
    assert rows["succeeded"].isna().all()
    assert found.trace.meta.end.outcome == "failed"
    assert len(found.trace.meta.cadence.gaps) == 1


def test_a_refused_call_is_a_row_with_libvirts_own_words():
    class Refusing(FakeDomain):
        def abort_job(self):
            raise SourceError(38, "Cannot recv data: Input/output error")

    domain = Refusing("nonconverging", speed=25)
    found = live(domain, mk.kubevirt("1.9", completion_timeout_per_gib=2), act=True, limit_s=6)
    domain.close()
    assert len(found.decisions) > 2
    rows = found.trace.samples[found.trace.samples["source"] == "action"]
    assert set(rows["error_text"]) == {"Cannot recv data: Input/output error"}

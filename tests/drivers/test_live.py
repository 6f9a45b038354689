"""The monitor on a running (fake) migration: what it decides live, a replay of what it recorded decides again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

import migkit as mk
from migkit.capture.course import Action, Course, Plan
from migkit.capture.fake import FakeDomain
from migkit.capture.outcome import MIGRATE
from migkit.capture.source import PAUSED, PAUSED_MIGRATION, RUNNING, SourceError
from migkit.capture.stats_row import row_from_stats
from migkit.drivers.first import firsts, prepare
from migkit.drivers.live import live
from migkit.drivers.monitor import POLL_NS
from migkit.drivers.wakes import Woken, action_row
from migkit.errors import MigkitError
from migkit.meta import Domain, End, Rule, TraceMeta
from migkit.policies import policy_names
from migkit.schema import JOB_CANCELLED, JOB_FAILED, JOB_UNBOUNDED
from migkit.units import MIB, NS_PER_MS
from tests.drivers.law import assert_within_the_spread, first_decisive, without_wakes


class Stage:
    """A made-up migration in time that only moves when it is told to. `refuse`: how many calls of a name fail first."""

    def __init__(self, plan: Plan, refuse: Mapping[str, int]) -> None:
        self.plan, self.refuse = plan, dict(refuse)
        self.now_ms, self.actions = 0, []
        self.course = Course(plan)

    def clock(self) -> int:
        return self.now_ms * NS_PER_MS

    def stats(self):
        leg = self.course.leg(self.now_ms)
        return None if leg.phase == "left" else self.course.stats(self.now_ms)

    def state(self):
        leg = self.course.leg(self.now_ms)
        return (PAUSED, PAUSED_MIGRATION) if leg.phase == "stopped" else (PAUSED, 1) if leg.suspended else (RUNNING, 1)

    def _do(self, name: str, argument: int = 0) -> None:
        left = self.refuse.get(name, 0)
        self.refuse[name] = left - 1
        if left > 0 or self.course.leg(self.now_ms).job_type != JOB_UNBOUNDED:
            raise SourceError(55, f"{name} refused")
        self.actions.append(Action(at_ms=self.now_ms + 1, name=name, argument=argument))
        self.course = Course(self.plan, self.actions)

    def abort_job(self):
        self._do("abort")

    def start_post_copy(self):
        self._do("start_post_copy")

    def suspend(self):
        self._do("suspend")

    def set_max_downtime(self, limit_ms: int):
        self._do("set_max_downtime", limit_ms)

    def failed(self) -> str | None:
        """What the migrate call says once it has failed."""
        ended = self.course.leg(self.now_ms).job_type in (JOB_FAILED, JOB_CANCELLED)
        return "migration out: canceled by client" if ended else None


def live_in_virtual_time(
    plan: Plan, policy: mk.policies.Policy, *, act: bool, refuse: Mapping[str, int], deaf: frozenset[int] = frozenset(),
    blind: frozenset[int] = frozenset(), migrates: bool = False, wakes: int = 120, first_ms: int = 0, poll_ms: int = 0,
):  # fmt: skip
    """Lives through a plan wake by wake; returns the session and the trace of it.

    At the wakes of the numbers `deaf` libvirt does not answer, at those of `blind` only the state is not told.
    `migrates`: the migrate call is made from here, and its end known. `poll_ms`: a recorder polls beside it."""
    stage = Stage(plan, refuse)
    session = Woken(
        policy, data_size_gb=1, has_vfio=False, start_ns=0, domain=stage if act else None, clock=stage.clock
    )
    iteration, polled_ms, error = 0, 0, None
    stage.now_ms = first_ms
    for number in range(wakes):
        reached = stage.course.leg(stage.now_ms).iteration
        event = reached if policy.hears_iterations and reached > iteration else None
        iteration = max(iteration, reached)
        stats = stage.stats()
        while poll_ms and polled_ms <= stage.now_ms:
            session.rows.append(polled(stage.course, polled_ms))
            polled_ms += poll_ms
        if migrates and error is None and (error := stage.failed()) is not None:
            session.rows.append(action_row(stage.clock(), MIGRATE, None, SourceError(78, error)))
        silent = SourceError(1, "no answer") if number in deaf else None
        state = None if silent or number in blind else stage.state()
        session.wake(
            stage.clock(), None if silent else stats, state, iteration=event, error=silent, migrate_error=error
        )
        if session.monitor.finished or stats is None:
            break
        due_ms = stage.now_ms + POLL_NS // NS_PER_MS
        coming = [
            leg.start_ms
            for leg in stage.course.legs
            if stage.now_ms < leg.start_ms <= due_ms and leg.iteration > iteration
        ]
        stage.now_ms = min(coming) if coming and policy.hears_iterations else due_ms
    rule = Rule(
        policy=policy.name,
        options=dict(policy.options),
        data_size_gb=1,
        has_vfio=False,
        acted=act,
        decisions=tuple(session.told),
    )
    meta = TraceMeta(provenance="simulated", domain=Domain(memory_bytes=10**9), end=End(outcome="lost"), rule=rule)
    rows = sorted(session.rows, key=lambda row: row["mono_ns"])
    return session, mk.Trace.from_rows(rows, meta, "virtual")


def polled(course: Course, at_ms: int) -> dict[str, object]:
    """A recorder's row."""
    left = course.leg(at_ms).phase == "left"
    answer = {"error_code": 42, "error_text": "gone"} if left else row_from_stats(course.stats(at_ms))
    return {"mono_ns": at_ms * NS_PER_MS, "wall_ns": 0, "source": "poll", "latency_us": 1000, **answer}


def told(table) -> list[tuple[object, ...]]:
    return [(round(d.t_s, 6), d.action, str(d.argument), d.succeeded, d.reason) for d in table.itertuples()]


plans = st.builds(
    Plan,
    prepare_ms=st.sampled_from([50, 600]),
    memory_bytes=st.integers(16, 256).map(lambda mib: mib * MIB),
    bandwidth_bps=st.sampled_from([16 * MIB, 64 * MIB]),
    dirty_bps=st.integers(0, 96).map(lambda mib: mib * MIB),
    mishap=st.sampled_from(["", "", "", "abort", "fail", "restart"]),
    mishap_ms=st.integers(1000, 20_000),
)
options = st.fixed_dictionaries(
    {"completion_timeout_per_gib": st.integers(0, 12), "progress_timeout": st.integers(0, 6),
     "allow_post_copy": st.booleans()}
)  # fmt: skip
calls = st.sampled_from(["abort", "start_post_copy", "suspend", "set_max_downtime"])
refusals = st.dictionaries(calls, st.sampled_from([1, 2, 3, 1000]), max_size=2)
silences = st.frozensets(st.integers(1, 60), max_size=12)


@given(
    plan=plans, name=st.sampled_from(policy_names()), values=options, act=st.booleans(), refuse=refusals, deaf=silences,
    blind=silences, migrates=st.booleans(),
)  # fmt: skip
def test_a_replay_of_what_was_lived_through_decides_the_same(plan, name, values, act, refuse, deaf, blind, migrates):
    policy = with_short_windows(name, values)
    session, trace = live_in_virtual_time(
        plan, policy, act=act, refuse=refuse, deaf=deaf, blind=blind, migrates=migrates
    )
    run = mk.replay(trace, policy)
    assert run.wakes_recorded
    assert told(run.decisions) == told(session.decisions())
    assert run.result == session.result()


@given(plan=plans, name=st.sampled_from(policy_names()), values=options, act=st.booleans(), deaf=silences)
def test_it_does_so_compiled_and_from_the_file(plan, name, values, act, deaf, tmp_path_factory):
    policy = with_short_windows(name, values)
    session, trace = live_in_virtual_time(plan, policy, act=act, refuse={"start_post_copy": 1}, deaf=deaf)
    read = mk.load(trace.save(tmp_path_factory.mktemp("live") / "a.parquet"))
    assert told(mk.replay(read, policy, compiled_form=True).decisions) == told(session.decisions())
    assert [dict(row) for row in read.meta.rule.decisions] == session.told


@given(
    plan=plans,
    name=st.sampled_from(policy_names()),
    values=options,
    act=st.booleans(),
    refuse=refusals,
    deaf=silences,
    blind=silences,
    migrates=st.booleans(),
)
def test_a_sweep_finds_what_was_done_first_at_the_recorded_wakes(
    plan, name, values, act, refuse, deaf, blind, migrates
):
    policy = with_short_windows(name, values)
    session, trace = live_in_virtual_time(
        plan, policy, act=act, refuse=refuse, deaf=deaf, blind=blind, migrates=migrates
    )
    ready = prepare(trace, events=policy.hears_iterations, policy=policy)
    lived = first_decisive(session.monitor.calls, ready.limit_ms, policy.family)
    for method in ("shortcut", "plain"):
        found = firsts(ready, policy.family.rules, policy.computed(data_size_gb=1, has_vfio=False), method=method)
        assert tuple(int(column[0]) for column in found[:5]) == lived


@given(plan=plans, name=st.sampled_from(policy_names()), values=options, phase=st.integers(1, 8), act=st.booleans(),
       refuse=refusals)  # fmt: skip
def test_wakes_rebuilt_from_the_polls_agree_within_their_spread(plan, name, values, phase, act, refuse):
    if "-stall" in name:
        return  # it judges values at the iteration events, which a poll only comes near to: see the lab's tests
    policy = with_short_windows(name, values)
    session, trace = live_in_virtual_time(plan, policy, act=act, refuse=refuse, first_ms=50 * phase, poll_ms=100)
    rebuilt = mk.replay(without_wakes(trace), policy)
    assert not rebuilt.wakes_recorded
    last_s = float(trace.t_s[(trace.samples["source"] == "wake").to_numpy()][-1])
    assert_within_the_spread(session.decisions(), rebuilt, until_s=last_s)


def test_a_state_that_is_not_told_is_no_running_guest():
    policy, plan = mk.kubevirt("1.5"), Plan(dirty_bps=96 * MIB, mishap="restart", mishap_ms=2000)
    session, trace = live_in_virtual_time(plan, policy, act=False, refuse={}, blind=frozenset(range(4, 20)))
    assert mk.replay(trace, policy).result == session.result() == "failed: job-failed"
    ended = len(trace.samples)
    assert ended > 20


@pytest.mark.parametrize("other", ["kubevirt-1.4", "kubevirt-1.8", "kubevirt-1.9"])
def test_another_rule_is_not_woken_by_this_ones_wakes(other):
    """They end with this one's abort, long before the other's deadline."""
    plan, first = Plan(dirty_bps=96 * MIB), mk.kubevirt("1.8", completion_timeout_per_gib=3)
    _, trace = live_in_virtual_time(plan, first, act=False, refuse={}, poll_ms=100)
    later = [polled(Course(plan), ms) for ms in range(5000, 15_000, 100)]
    run = mk.replay(trace.with_rows(later), mk.policy(other, completion_timeout_per_gib=9))
    assert not run.wakes_recorded
    assert run.decisions[["action", "reason"]].to_numpy().tolist() == [["abort", "timeout"]]
    assert run.decisions["t_s"].iloc[0] >= 10


def with_short_windows(name, values):
    window = {"stall_progress_timeout": 3, "switchover_timeout": 3} if "-stall" in name else {}
    return mk.policy(name, **values, **window)


def test_what_somebody_else_does_is_no_outcome_of_a_shadow():
    policy = mk.kubevirt("1.8", completion_timeout_per_gib=2, allow_post_copy=True)
    session, trace = live_in_virtual_time(Plan(dirty_bps=96 * MIB), policy, act=False, refuse={})
    (decided,) = session.told
    refused = SourceError(55, "not ready for post-copy")
    other = action_row(int(decided["t_s"] * 10**9) + NS_PER_MS, "start_post_copy", None, refused)
    assert told(mk.replay(trace.with_rows([other]), policy).decisions) == told(session.decisions())


def test_a_migration_that_would_not_end_is_aborted():
    domain = FakeDomain("nonconverging", speed=25)
    found = live(domain, mk.kubevirt("1.8", completion_timeout_per_gib=8), act=True)
    domain.close()
    assert list(found.decisions["action"]) == ["abort"]
    assert found.result == "failed: timeout"
    assert found.decisions["t_s"].iloc[0] > 9
    rows = found.trace.samples
    assert list(rows.loc[rows["source"] == "action", "action"]) == ["abort"]


def test_shadow_mode_only_says_what_it_would_do():
    domain = FakeDomain("abort", speed=25)
    found = live(domain, mk.kubevirt("1.9", completion_timeout_per_gib=3))
    domain.close()
    assert list(found.decisions["action"]) == ["abort"]
    assert not (found.trace.samples["source"] == "action").any()
    assert found.trace.meta.end.outcome == "cancelled"
    assert not found.acted


def test_post_copy_is_started_and_the_migration_completes():
    domain = FakeDomain("nonconverging", speed=25)
    policy = mk.policy(
        "kubevirt-1.9-stall", allow_post_copy=True, stall_progress_timeout=4, completion_timeout_per_gib=60
    )
    found = live(domain, policy, act=True)
    domain.close()
    assert "start_post_copy" in list(found.decisions["action"])
    assert found.trace.meta.end.outcome == "completed"
    again = mk.replay(found.trace, policy)
    assert told(again.decisions) == told(found.decisions)


def test_a_call_that_fails_is_tried_again():
    domain = FakeDomain("nonconverging", speed=25, refuse=frozenset({"start_post_copy"}))
    policy = mk.kubevirt("1.8", completion_timeout_per_gib=2, allow_post_copy=True)
    found = live(domain, policy, act=True, limit_s=8)
    domain.close()
    assert len(found.decisions) >= 3
    assert not found.decisions["succeeded"].any()
    refused = found.trace.samples["error_text"].dropna()
    assert refused.str.contains("start_post_copy refused").all()


def test_no_migration_in_time_is_one_line():
    domain = FakeDomain("idle", speed=50)
    with pytest.raises(MigkitError, match="no migration began in time"):
        live(domain, mk.kubevirt("1.8"), limit_s=5)
    domain.close()


def test_a_guest_of_unknown_memory_needs_a_size():
    class Unknown(FakeDomain):
        def facts(self):
            facts = super().facts()
            return dataclasses.replace(facts, domain=dataclasses.replace(facts.domain, memory_bytes=None))

    domain = Unknown("fast")
    with pytest.raises(MigkitError, match="memory is unknown"):
        live(domain, mk.kubevirt("1.8"))
    domain.close()


def test_the_end_is_told_although_the_monitor_has_ended_before():
    domain = FakeDomain("nonconverging", speed=25)
    found = live(domain, mk.kubevirt("1.8", completion_timeout_per_gib=3), act=True)
    domain.close()
    assert found.result == "failed: timeout"
    assert found.trace.meta.end.outcome == "cancelled"


def test_a_daemon_that_restarts_is_a_gap_and_not_for_ever():
    domain = FakeDomain("daemon-restart", speed=10)
    found = live(domain, mk.kubevirt("1.8"), limit_s=120)
    domain.close()
    assert len(found.trace.meta.cadence.gaps) == 1
    assert found.trace.meta.end.outcome == "failed"


def test_a_guest_that_is_not_there_is_one_line():
    domain = FakeDomain("fast", speed=50, start_ms=-60_000)
    with pytest.raises(MigkitError, match="went away before a migration began"):
        live(domain, mk.kubevirt("1.8"))
    domain.close()


def test_disks_that_are_copied_count_live_as_they_do_in_a_replay():
    class Copies(FakeDomain):
        def answer(self, at_ms):
            return super().answer(at_ms) | {"disk_total": 30 * 10**9}

    domain, policy = Copies("abort", speed=25), mk.kubevirt("1.8", completion_timeout_per_gib=1)
    found = live(domain, policy)
    domain.close()
    assert found.decisions.empty
    assert mk.replay(found.trace, policy).deadline_s == 31


def test_values_beyond_a_signed_number_are_read_alike():
    policy = mk.kubevirt("1.8", progress_timeout=2)
    session = Woken(policy, data_size_gb=1, has_vfio=False, start_ns=0)
    for i in range(20):
        stats = {"type": 2, "time_elapsed": i * 400, "data_remaining": 1000 if i < 4 else 2**64 - 1}
        session.wake(i * 400 * NS_PER_MS, stats, (RUNNING, 1))
        if session.monitor.finished:
            break
    trace = mk.Trace.from_rows(session.rows, TraceMeta(domain=Domain(memory_bytes=10**9)), "huge")
    assert told(mk.replay(trace, policy).decisions) == told(session.decisions())
    assert len(session.decisions()) == 1

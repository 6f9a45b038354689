"""The first decisive action by shortcut, by the compiled rules, by the plain ones, and by the monitor of a replay."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import migkit as mk
from migkit import parquet
from migkit.drivers import first, schedule
from migkit.drivers.columns import columns, table_columns
from migkit.drivers.first import Firsts, Prepared, firsts, prepare
from migkit.drivers.monitor import Monitor
from migkit.drivers.record import CODES, Record
from migkit.drivers.replay import _Life
from migkit.drivers.replies import refused, replies
from migkit.errors import MigkitError
from migkit.policies import base, compiled
from migkit.policies.base import NS_PER_S, Options, Wakes
from migkit.policies.versions import VERSIONS, Family
from tests.conftest import TRACES
from tests.drivers.law import CODE_OF_CALL, first_decisive

FAMILIES = {"1.4": VERSIONS["1.4"], "1.5": VERSIONS["1.5"], "1.8": VERSIONS["1.8"], "main": VERSIONS["main"]}
Random = np.random.Generator


# --- worlds nobody would record -------------------------------------------------------------------------------------


def world(rng: Random) -> Prepared:
    """Wake-ups of a migration in one of many moods: gaps, holes, other job types, time and counters that go back,
    huge unsigned numbers, calls that failed."""
    n, rare = int(rng.integers(0, 90)), lambda p: rng.random() < p
    step = rng.choice([1, 50, 400, 400, 400, 1000, 4000], n) * 10**6
    t_ns = np.cumsum(step if rare(0.9) else step * rng.choice([1, 1, -1], n)) + rng.integers(-1, 2) * 400 * 10**6

    def mostly(p: float) -> np.ndarray:
        return rng.random(n) < (1.0 if rare(0.6) else p)

    falling = np.maximum(0, 2 * 10**6 - np.cumsum(rng.integers(-(10**4), 3 * 10**4, n)))
    sizes = [falling, rng.integers(0, 12, n), rng.integers(900_000, 1_100_000, n), rng.integers(-(2**63), 2**63 - 1, n)]
    speeds = [np.full(n, 10**6), rng.choice([0, 1, 10**3, 10**6, 10**9], n), rng.integers(-(2**63), 2**63 - 1, n)]
    elapsed_ms = np.maximum(t_ns // 10**6 + (0 if rare(0.8) else rng.choice([0, 0, 5, -3000], n)), 0)
    paused = np.arange(n) > rng.integers(0, 2 * n + 1)
    domain = np.where(paused if rare(0.3) else np.zeros(n, bool), base.DOMAIN_PAUSED_FOR_MIGRATION, base.DOMAIN_RUNNING)
    wakes = Wakes(
        t_ns=t_ns, event=rng.random(n) < 0.4, stats=mostly(0.9),
        job_type=np.full(n, 2) if rare(0.5) else rng.choice([2] * 12 + [0, 1, 3, 4, 5], n),
        remaining=sizes[rng.choice(4, p=[0.4, 0.25, 0.25, 0.1])], remaining_set=mostly(0.9),
        elapsed_ms=elapsed_ms, elapsed_set=mostly(0.95),
        iteration=np.cumsum(rng.random(n) < 0.4) if rare(0.8) else rng.integers(-2, 9, n), iteration_set=mostly(0.9),
        bps=speeds[rng.choice(3, p=[0.5, 0.4, 0.1])], bps_set=mostly(0.8),
        domain=domain if rare(0.8) else rng.integers(0, 4, n), migrate_error=np.zeros(n, bool),
    )  # fmt: skip
    limits = np.full(n, 300) if rare(0.6) else rng.choice([100, 300, 900, 3 * 10**6], n)
    calls = [] if rare(0.8) else sorted(
        (int(rng.choice(t_ns) + rng.integers(0, 10**8)), int(rng.integers(1, base.CANCEL)), bool(rare(0.3)))
        for _ in range(min(n, int(rng.integers(1, 40))))
    )  # fmt: skip
    until_ns = np.append(t_ns[1:], t_ns[-1:] + NS_PER_S) if rare(0.5) else t_ns + NS_PER_S
    trace = columns(mk.load(TRACES / "zero-pages.parquet"))
    plan = schedule.schedule(trace, events=True)
    return Prepared(columns=trace, plan=plan, wakes=wakes, limit_ms=limits, replies=replies(calls, t_ns, until_ns))


def some_options(rng: Random, family: Family, count: int, *, long: bool = False) -> Options:
    """Options inside and outside of what KubeVirt admits; `long` ones suit a migration of minutes."""
    reach = 200 if long else 15
    small = lambda top=reach: rng.integers(0, top, count)  # noqa: E731
    factor = lambda: rng.choice([0.0, 0.001, 0.333, 0.5, 0.7, 1.0, 1.1, 2.0, 10.0], count)  # noqa: E731
    flag = lambda p=0.4: rng.random(count) < p  # noqa: E731
    new = family.rules == "events"
    limit_ms = np.where(flag(0.2), 300, rng.choice([0, 1, 299, 301, 900, 2 * 10**6, 5 * 10**6], count))
    fixed = lambda value: np.full(count, value)  # noqa: E731
    return Options(
        ends_with_job=fixed(family.ends_with_job), disruption_gate=fixed(family.disruption_gate),
        progress_timeout_s=np.where(flag(0.2), 0, small()), acceptable_s=np.where(flag(0.1), -3, small()),
        allow_post_copy=flag(), allow_workload_disruption=flag(), has_vfio=flag(0.2),
        max_downtime_ms=limit_ms, tuning=flag() & new,
        tuning_initial_ms=np.minimum(rng.integers(0, 350, count), limit_ms),
        tuning_steps=rng.integers(1, 12, count), tuning_start_after=small(6),
        tuning_cooldown_ns=rng.integers(1, 9, count) * NS_PER_S, stall=flag(0.6) & new,
        margin=rng.choice([0, 1, 4, 29, 50, 100], count) / 100, window_ms=small() * 1000, switchover_s=small() - 2,
        alpha=factor(), precopy_factor=factor(), decay=factor(), completion_factor=factor(), search_minima=flag(0.5),
    )  # fmt: skip


def one_of(options: Options, k: int) -> Options:
    return Options(*(column[k].item() for column in options))


# --- what a monitor does --------------------------------------------------------------------------------------------


class Recorded:
    """A hypervisor that answers from the record, as a replay's does."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared, self.used = prepared, [0] * base.CANCEL

    def call(self, row: int, name: str, argument: int | None) -> bool:
        return row < 0 or not refused(self.prepared.replies, self.used, CODE_OF_CALL[name], row)

    def job_type(self, row: int) -> int | None:
        wakes = self.prepared.wakes
        return int(wakes.job_type[row]) if wakes.stats[row] else base.JOB_TYPE_ACTIVE


def monitored(prepared: Prepared, family: Family, options: Options) -> tuple[int, ...]:
    monitor = Monitor(family, options, Recorded(prepared), room=len(prepared.limit_ms))
    monitor.run(Wakes(*(column.tolist() for column in prepared.wakes)), 0, len(prepared.limit_ms))
    return first_decisive(monitor.calls, prepared.limit_ms, family)


def row(found: Firsts, k: int) -> tuple[int, ...]:
    return tuple(int(column[k]) for column in found[:5])


def assert_same(a: Firsts, b: Firsts) -> None:
    for name, mine, theirs in zip(Firsts._fields, a, b, strict=True):
        np.testing.assert_array_equal(mine, theirs, err_msg=name)


# --- the law --------------------------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32), version=st.sampled_from(sorted(FAMILIES)))
def test_law_one_logic_shortcut_compiled_plain_and_monitor_decide_alike_on_any_wakes(seed, version):
    pytest.importorskip("numba")
    rng, family = np.random.default_rng(seed), FAMILIES[version]
    prepared, options = world(rng), some_options(rng, family, 25)
    plain = firsts(prepared, family.rules, options, method="plain")
    assert_same(firsts(prepared, family.rules, options, method="advance"), plain)
    assert_same(firsts(prepared, family.rules, options), plain)
    for k in range(25):
        assert row(plain, k) == monitored(prepared, family, one_of(options, k)), one_of(options, k)


@pytest.mark.parametrize("path", sorted(TRACES.glob("*.parquet")), ids=lambda path: path.stem)
def test_law_one_logic_sweep_and_replay_decide_alike_on_every_bundled_trace(path):
    pytest.importorskip("numba")
    trace = mk.load(path)
    rng = np.random.default_rng(len(trace.samples))
    record = Record(trace)
    for version, family in FAMILIES.items():
        for events in (False, True) if family.rules == "events" else (False,):
            options, phase = some_options(rng, family, 12, long=True), int(rng.integers(8))
            options = options._replace(stall=np.full(12, events))
            prepared = prepare(trace, events=events, phase=phase)
            found = firsts(prepared, family.rules, options)
            assert_same(firsts(prepared, family.rules, options, method="advance"), found)
            plan = schedule.schedules(trace, events=events)[0 if prepared.plan.recorded else phase]
            for k in range(12):
                policy = mk.kubevirt(version)
                life = _Life(record, policy, one_of(options, k), plan, {}, False, watched=False)
                assert row(found, k) == first_decisive(life.monitor.calls, prepared.limit_ms, family), (version, k)


def test_the_made_up_worlds_bring_every_action_and_reason():
    """Else the law above would be kept by silence."""
    seen = set()
    for seed in range(150):
        rng = np.random.default_rng(seed)
        for family in FAMILIES.values():
            found = firsts(world(rng), family.rules, some_options(rng, family, 25))
            seen |= set(zip(found.action.tolist(), found.reason.tolist(), strict=True))
    abort, cancel, post_copy, downtime = base.ABORT, base.CANCEL, base.START_POST_COPY, base.SET_MAX_DOWNTIME
    assert seen == {
        (base.NONE, 0), (abort, base.STUCK), (abort, base.TIMEOUT), (post_copy, base.TIMEOUT),
        (base.SUSPEND, base.TIMEOUT), (cancel, base.STUCK), (cancel, base.TIMEOUT), (cancel, base.NO_BANDWIDTH),
        (cancel, base.NOT_COMPLETABLE), (cancel, base.STALL_ABORT), (downtime, base.TUNING), (downtime, base.TIMEOUT),
        (downtime, base.STALL_INITIAL), (downtime, base.STALL_HARD), (downtime, base.STALL_SOFT),
        (post_copy, base.STALL_POST_COPY),
    }  # fmt: skip


def test_a_stall_s_abort_on_the_deadline_s_own_wake_is_given_the_deadline_s_reason():
    """KubeVirt cancels once for both; the monitor tells the latter."""
    pytest.importorskip("numba")
    n, third = 12, np.arange(12) % 3 == 2
    on, zero = np.ones(n, bool), np.zeros(n, np.int64)
    t_s = np.arange(1, n + 1)
    wakes = Wakes(
        t_ns=t_s * NS_PER_S, event=third, stats=on, job_type=zero + 2, remaining=zero + 1000, remaining_set=on,
        elapsed_ms=t_s * 1000, elapsed_set=on, iteration=np.cumsum(third), iteration_set=on, bps=zero + 1000,
        bps_set=on, domain=zero + base.DOMAIN_RUNNING, migrate_error=~on,
    )  # fmt: skip
    prepared = dataclasses.replace(world(np.random.default_rng(0)), wakes=wakes, limit_ms=zero + 300,
                                   replies=replies([], zero, zero))  # fmt: skip
    policy = mk.kubevirt("1.9", stall_detection=True, stall_progress_timeout=2, max_downtime_ms=100)
    options = policy.computed(data_size_gb=1, has_vfio=False)._replace(acceptable_s=np.array([5, 6, 4]))
    reasons = [base.TIMEOUT, base.STALL_ABORT, base.TIMEOUT]
    found = firsts(prepared, "events", options)
    assert_same(found, firsts(prepared, "events", options, method="plain"))
    assert (found.wake.tolist(), found.reason.tolist()) == ([5, 5, 4], reasons)


# --- without numba --------------------------------------------------------------------------------------------------


def test_without_numba_the_shortcuts_say_the_same(monkeypatch):
    rng = np.random.default_rng(7)
    cases = [(world(rng), family, some_options(rng, family, 15)) for family in FAMILIES.values() for _ in range(5)]
    expected = [firsts(prepared, family.rules, options) for prepared, family, options in cases]
    monkeypatch.setattr(compiled, "available", lambda: False)
    for (prepared, family, options), known in zip(cases, expected, strict=True):
        assert_same(firsts(prepared, family.rules, options), known)


def test_without_numba_only_stall_detection_is_slow(monkeypatch):
    stall = mk.policy("kubevirt-1.9-stall").computed(data_size_gb=1, has_vfio=False)
    assert not first.is_slow("events", stall)
    monkeypatch.setattr(compiled, "available", lambda: False)
    assert first.is_slow("events", stall)
    assert not first.is_slow("events", stall._replace(stall=False))
    assert not first.is_slow("polling", stall)


def test_the_compiled_rules_without_numba_are_refused(monkeypatch):
    monkeypatch.setattr(compiled, "available", lambda: False)
    with pytest.raises(MigkitError, match=r"pip install 'migkit\[fast\]'"):
        compiled.compile_kept(lambda advance, sources: None, "events")


# --- preparation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["downtime-raised", "postcopy_switch", "block-volume-missing", "long-hot-set"])
def test_an_arrow_table_and_a_trace_are_prepared_alike(name):
    table, meta = parquet.read(TRACES / f"{name}.parquet")
    ours, theirs = table_columns(table, meta, name), columns(mk.load(TRACES / f"{name}.parquet"))
    assert ours.t0_ns == theirs.t0_ns == mk.load(TRACES / f"{name}.parquet").t0_ns
    assert ours.actions == theirs.actions
    np.testing.assert_array_equal(ours.source, theirs.source)
    for column, (values, known) in ours.numbers.items():
        np.testing.assert_array_equal(known, theirs.numbers[column][1], err_msg=column)
        np.testing.assert_array_equal(values, theirs.numbers[column][0], err_msg=column)


def test_a_slice_of_a_larger_table_is_prepared_like_a_trace_of_its_own():
    parts = [parquet.read(TRACES / f"{name}.parquet") for name in ("idle", "downtime-raised", "zero-pages")]
    whole = parquet.pa.concat_tables([table for table, _ in parts])
    (before, _), (own, meta), _ = parts
    cut = table_columns(whole.slice(len(before), len(own)), meta)
    alone = table_columns(own, meta)
    for events in (False, True):
        for mine, theirs in zip(prepare(cut, events=events).wakes, prepare(alone, events=events).wakes, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_the_limit_in_force_follows_the_record(bundled):
    trace = bundled["downtime-steps"]
    prepared = prepare(trace, events=False)
    known = mk.stats.downtime_limits(trace)
    for t_ns, limit in zip(prepared.wakes.t_ns, prepared.limit_ms, strict=True):
        assert limit == known["limit_ms"][known["t_s"] <= t_ns / NS_PER_S].iloc[-1]
    assert set(prepared.limit_ms) == {300, 450, 600}


def test_qemu_s_default_holds_where_nobody_told_a_limit(bundled):
    trace = bundled["postcopy_switch"]
    assert trace.meta.migration.downtime_limit_ms is None
    assert set(prepare(trace, events=False).limit_ms) == {300}


def test_a_failed_call_fails_within_a_second_of_it(bundled):
    trace = bundled["idle"]
    action = {"mono_ns": trace.t0_ns + 2 * NS_PER_S, "wall_ns": 0, "source": "action", "action": "suspend"}
    prepared = prepare(trace.with_rows([action | {"succeeded": False}]), events=False)
    near = np.abs(prepared.wakes.t_ns - 2 * NS_PER_S) <= NS_PER_S
    assert near.any()
    assert not near.all()
    rows = range(len(near))
    assert [refused(prepared.replies, [0] * base.CANCEL, CODES["suspend"], row) for row in rows] == near.tolist()
    assert not any(refused(prepared.replies, [0] * base.CANCEL, CODES["abort"], row) for row in rows)
    assert not prepare(trace.with_rows([action | {"succeeded": True}]), events=False).replies.failed.any()


def test_one_call_of_the_record_answers_to_one_call():
    calls = [(at_ms, base.SUSPEND, ok) for at_ms, ok in ((1000, False), (1400, False), (1800, True))]
    at_ms = np.arange(800, 2800, 400)
    found, used = replies(calls, at_ms - 1000, at_ms + 1000), [0] * base.CANCEL
    assert [refused(found, used, base.SUSPEND, row) for row in range(5)] == [True, True, False, False, False]


def test_options_of_single_values_are_one_setting(bundled):
    policy = mk.kubevirt("1.8", completion_timeout_per_gib=10)
    found = firsts(prepare(bundled["noconverge_abort"], events=False), "polling",
                   policy.computed(data_size_gb=1, has_vfio=False))  # fmt: skip
    assert [len(column) for column in found] == [1] * len(Firsts._fields)
    assert found.action.tolist() == [base.ABORT]


def test_what_was_believed_is_told_of_stall_decisions_alone(bundled):
    trace, policy = bundled["long-hot-set"], mk.policy("kubevirt-1.9-stall", stall_progress_timeout=3)
    prepared = prepare(trace, events=True)
    options = policy.computed(data_size_gb=2, has_vfio=False)
    found = firsts(prepared, "events", options._replace(stall=np.array([True, False]), acceptable_s=100))
    said = mk.replay(trace, policy, data_size_gb=2).decisions
    assert found.reason.tolist() == [base.STALL_SOFT, base.TIMEOUT]
    assert f"sending it takes {found.estimate_ms[0]} ms" in said["evidence"].iloc[1]
    assert found.ewma_bps[0] > 0
    assert (found.estimate_ms[1], found.ewma_bps[1]) == (0, 0)


def test_compiled_code_is_forgotten_when_any_source_changes(tmp_path, monkeypatch):
    path = tmp_path / "helper.py"
    path.write_text("A = 1\n")
    module = dataclasses.make_dataclass("Module", ["__file__"], frozen=True)(str(path))
    before = compiled._sources((module,))
    path.write_text("A = 2\n")
    compiled._sources.cache_clear()
    assert compiled._sources((module,)) != before

"""The stall detector at its edges, where no recorded decision tells one rule from another."""

from __future__ import annotations

import pytest

from migkit.policies import base, stall
from migkit.policies.base import Options, PlainState, Slot
from migkit.policies.versions import VERSIONS, computed_options


def options(**changes: object) -> Options:
    values = {
        "progress_timeout": 0, "completion_timeout_per_gib": 100, "allow_post_copy": False, "max_downtime_ms": 900,
        "stall_detection": True, "stall_margin": 4, "stall_progress_timeout": 40, "switchover_timeout": 60,
        "ewma_alpha": "0.4", "precopy_possible_factor": "1.5", "patience_window_decay_factor": "0.5",
        "search_local_minima": True, "completion_timeout_factor": "2",
    }  # fmt: skip
    return computed_options(VERSIONS["1.9"], values | changes, data_size_gb=1, has_vfio=False)


def state(**changes: object) -> PlainState:
    made = PlainState(acceptable_s=100, switch_deadline_s=100, ewma_bps=1000.0, best=1000, record_remaining=1000)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def room() -> list[Slot]:
    return [Slot() for _ in range(9)]


@pytest.mark.parametrize(("estimate", "reason"), [(900, base.STALL_SOFT), (901, base.STALL_ABORT)])
def test_a_pause_of_exactly_the_accepted_length_is_accepted(estimate, reason):
    assert stall.decide(state(), options(precopy_possible_factor="0.5"), 10, estimate)[2] == reason


@pytest.mark.parametrize(("estimate", "reason"), [(1350, base.STALL_SOFT), (1351, base.STALL_ABORT)])
def test_so_is_one_of_exactly_the_factor_above_it(estimate, reason):
    assert stall.decide(state(), options(), 10, estimate)[2] == reason


@pytest.mark.parametrize(("elapsed_s", "estimate", "in_time"), [(199, 1000, True), (199, 1001, False), (201, 0, False)])
def test_what_fits_exactly_before_the_extended_deadline_can_be_completed(elapsed_s, estimate, in_time):
    assert stall.completable(100, 2.0, elapsed_s, estimate) is in_time


def test_remaining_at_the_target_is_near_enough_to_the_best():
    at, above = state(best=1000, record_remaining=1040), state(best=1000, record_remaining=1041)
    assert stall.decide(at, options(), 10, 5)[0] == base.SET_MAX_DOWNTIME
    assert stall.decide(above, options(), 10, 5) == base.NOTHING


def test_without_a_deadline_there_is_no_stall_action_once_a_second_has_passed():
    assert stall.decide(state(acceptable_s=0), options(), 1, 0) == base.NOTHING


def test_the_threshold_itself_counts_as_stalled():
    for remaining, stalled in ((960, True), (959, False)):
        s = state(outside_remaining=1000, outside_elapsed_ms=1, record_remaining=remaining, record_elapsed_ms=50_000)
        assert stall.process(s, room(), options()) is stalled


def test_a_record_leaves_the_window_exactly_when_it_is_as_old_as_that():
    for elapsed_ms, left in ((40_999, False), (41_000, True)):
        s, slots = state(record_remaining=5, record_elapsed_ms=1000, record_iteration=1), room()
        stall.insert(s, slots)
        s.record_elapsed_ms = elapsed_ms
        stall.age_out(s, slots, 40_000)
        assert stall.outside_set(s) is left


def test_an_elapsed_time_that_went_back_is_infinitely_old():
    s, slots = state(record_remaining=5, record_elapsed_ms=1000, record_iteration=1), room()
    stall.insert(s, slots)
    s.record_elapsed_ms = 999
    stall.age_out(s, slots, 40_000)
    assert s.outside_remaining == 5


def test_a_record_of_three_zeros_counts_as_none():
    assert not stall.outside_set(state())
    for name in ("outside_remaining", "outside_elapsed_ms", "outside_iteration"):
        assert stall.outside_set(state(**{name: 1}))


def test_the_estimate_is_an_unsigned_number_of_32_bits():
    assert stall.estimate_ms(2**62, 1.0) == 4294967295
    assert stall.estimate_ms(1500, 1000.0) == 1500
    assert stall.estimate_ms(5, 0.0) == 0
    assert stall.estimate_ms(1500, -1000.0) == 2**32 - 1500


def test_relaxing_uses_up_the_smallest_and_halves_patience():
    s, slots = state(stalled=1, relax_deadline_ms=10, patience_ms=41), room()
    for elapsed_ms, remaining in ((1, 30), (2, 10), (3, 20), (10, 40)):
        s.record_elapsed_ms, s.record_remaining = elapsed_ms, remaining
        stall.relax(s, slots, 0.5)
    assert (s.best, s.history, s.patience_ms, s.relax_deadline_ms) == (10, 3, 20, 30)
    assert sorted(slot.history for slot in slots[:3]) == [20, 30, 40]

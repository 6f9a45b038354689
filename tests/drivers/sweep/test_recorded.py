"""What really happened, told from the record alone."""

from __future__ import annotations

import numpy as np
import pytest

from migkit.drivers.sweep.recorded import recorded
from migkit.drivers.sweep.rows import Rows
from migkit.units import MIB
from tests.made import migration

FLAT = [500, 100, 100, 100, 100, 100, 100, 100, 100, 100]


def facts(*args, **kwargs):
    return recorded(Rows.of(migration(*args, **kwargs)))


def test_a_migration_that_nobody_touched_completed_by_itself():
    found = facts([500, 100, 20], outcome="completed")
    assert (found.end, found.end_s, found.changed_s) == ("completed", 15.0, np.inf)


def test_a_plateau_that_its_operator_ended_never_converged():
    found = facts(FLAT, outcome="cancelled", action="abort")
    assert found.end == "never converged"
    assert found.improved_s == pytest.approx(5.0, abs=0.2)
    assert found.changed_s == pytest.approx(50.0)


def test_a_plateau_that_was_ended_soon_is_cut_short():
    assert facts(FLAT[:6], outcome="cancelled", action="abort").end == "cut short"


def test_a_migration_that_failed_by_itself_is_neither():
    assert facts(FLAT, outcome="failed").end == "failed"


@pytest.mark.parametrize("action", ["start_post_copy", "suspend", "set_max_downtime", "set_bandwidth"])
def test_what_an_operator_changed_is_censored_from_then_on(action):
    found = facts([500, 100, 20], outcome="completed", action=action)
    assert found.end == "cut short"
    assert found.end_s == found.changed_s


def test_the_first_pass_alone_never_stops_improving():
    assert facts([5000], pass_s=100, outcome="cancelled", action="abort").improved_s == np.inf


def test_a_pass_improves_by_more_than_four_percent_or_not_at_all():
    assert facts([500, 100, 97, 97], outcome="cancelled", action="abort").improved_s == pytest.approx(5.0, abs=0.2)
    assert facts([500, 100, 95, 95], outcome="cancelled", action="abort").improved_s == pytest.approx(10.0, abs=0.2)


def test_what_is_dirtied_in_a_pass_follows_from_what_was_sent():
    found = facts([500, 100, 60, 60], outcome="lost")
    inside = found.dirtied_in_pass_bytes[found.sample_at(np.array([2.0]))]
    assert inside == pytest.approx(100 * MIB, rel=0.01)


def test_the_same_migration_under_two_names_has_one_fingerprint():
    one, two = facts(FLAT, name="a"), facts(FLAT, name="b")
    assert one.fingerprint() == two.fingerprint()
    assert one.fingerprint() != facts([500, 100, 90]).fingerprint()


def test_the_record_judges_as_the_lab_knows(bundled):
    """Over the real set: what is known to converge never counts as hopeless, and the other way round."""
    for trace in bundled.values():
        truth = trace.meta.lab.truth if trace.meta.lab else {}
        end = recorded(Rows.of(trace)).end if trace.active.any() else "failed"
        assert not (end == "never converged" and truth.get("converges")), trace.name
        assert not (end == "completed" and truth.get("converges") is False), trace.name

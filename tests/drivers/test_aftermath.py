"""What is said of both hosts after a migration that did not complete: the guest must never run on both."""

from __future__ import annotations

import pytest

from migkit.capture.source import NO_DOMAIN, SourceError
from migkit.drivers.aftermath import sides
from migkit.meta import End

RUNS, USER, MIGRATION, BROKEN, GONE, SILENT = (1, 1), (3, 1), (3, 2), (3, 13), None, "no answer"


class Side:
    def __init__(self, state):
        self._state = state

    def state(self):
        if self._state is GONE:
            raise SourceError(NO_DOMAIN, "Domain not found")
        if self._state is SILENT:
            raise SourceError(38, "unable to connect", lost=True)
        return self._state


@pytest.mark.parametrize(
    ("outcome", "here", "there", "advice"),
    [
        ("cancelled", RUNS, GONE, "nothing is lost"),
        ("failed", RUNS, MIGRATION, "nothing is lost"),
        ("failed", RUNS, SILENT, "nothing is lost"),
        ("failed", USER, GONE, "the guest stands still on the source: virsh resume"),
        ("failed", USER, SILENT, "the guest stands still on the source: once you are sure"),
        ("lost", RUNS, RUNS, "the guest runs on BOTH hosts"),
        ("lost", GONE, RUNS, "the migration has succeeded after all"),
        ("lost", USER, RUNS, "the migration has succeeded after all"),
        ("failed", GONE, GONE, "the guest is on neither host"),
        ("lost", SILENT, SILENT, "find out where the guest runs"),
        ("lost", GONE, SILENT, "find out where the guest runs"),
        ("postcopy-failed", BROKEN, BROKEN, "neither host has all of the guest's memory"),
        ("postcopy-failed", BROKEN, GONE, "post-copy cannot be resumed"),
        ("lost", BROKEN, SILENT, "neither host has all of the guest's memory"),
        ("lost", SILENT, BROKEN, "neither host has all of the guest's memory"),
    ],
)
def test_the_advice_follows_from_both_states(outcome, here, there, advice):
    assert advice in " ".join(sides(Side(here), Side(there), End(outcome=outcome)).advice)


def test_a_half_that_is_left_on_the_destination_is_told_of():
    found = sides(Side(RUNS), Side(MIGRATION), End(outcome="failed"))
    assert (found.source, found.destination) == ("the guest runs", "the guest is paused (for the migration)")
    assert "must not run" in found.advice[1]


def test_a_destination_that_nobody_can_ask_is_unknown_and_not_empty():
    found = sides(Side(USER), None, End(outcome="failed"), unknown="no route")
    assert found.destination == "unknown: no route"
    assert "once you are sure" in found.advice[0]


def test_nothing_advises_to_resume_a_guest_that_may_run_elsewhere():
    for there in (RUNS, SILENT, BROKEN):
        for line in sides(Side(USER), Side(there), End(outcome="failed")).advice:
            assert "virsh resume" not in line or "once you are sure" in line

"""The fake domain answers like libvirt does, and the same each time."""

from __future__ import annotations

import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migkit.capture.course import Action, Course
from migkit.capture.fake import SCENARIOS, FakeDomain, draw_latency_ms
from migkit.capture.source import SourceError
from migkit.errors import MigkitError
from migkit.schema import BY_KEY


def test_latencies_have_the_measured_quantiles():
    drawn = random.Random(0)
    values = sorted(draw_latency_ms(drawn) for _ in range(20_000))
    assert values[10_000] == pytest.approx(1.5, rel=0.1)
    assert values[18_000] == pytest.approx(5.2, rel=0.1)
    assert values[19_800] == pytest.approx(27.0, rel=0.15)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_answers_with_libvirts_keys(scenario):
    domain = FakeDomain(scenario)
    for at_ms in range(0, 9000, 50):
        if domain.course.leg(at_ms).phase == "left":
            with pytest.raises(SourceError, match="no domain"):
                domain.answer(at_ms)
            continue
        stats = domain.answer(at_ms)
        assert set(stats) - {"type"} <= set(BY_KEY)
        assert all(value >= 0 for value in stats.values())


@given(at_ms=st.integers(0, 8000), seed=st.integers(0, 9))
def test_an_answer_depends_on_the_moment_alone(at_ms, seed):
    def answer(domain: FakeDomain) -> object:
        try:
            return domain.answer(at_ms)
        except SourceError as error:
            return str(error)

    assert answer(FakeDomain("converge", seed=seed)) == answer(FakeDomain("converge", seed=0))


@given(
    at_ms=st.integers(700, 20_000),
    name=st.sampled_from(["abort", "start_post_copy", "suspend", "set_max_downtime"]),
    before_ms=st.integers(0, 20_000),
)
def test_an_action_changes_the_future_and_never_the_past(at_ms, name, before_ms):
    plan = SCENARIOS["nonconverging"]
    changed = Course(plan, [Action(at_ms=at_ms, name=name, argument=5000)])
    if before_ms < at_ms:
        assert changed.stats(before_ms) == Course(plan).stats(before_ms)
    if name == "abort":
        assert changed.stats(at_ms)["type"] == 5
    else:
        assert changed.legs[-1].phase == "left"


def test_aborted_jobs_read_all_zeros_before_they_are_none():
    stats = FakeDomain("abort").answer(6000)
    assert stats["type"] == 5
    assert stats["data_remaining"] == stats["data_total"] == stats["time_elapsed"] == 0
    assert FakeDomain("abort").answer(7500) == {"type": 0}


def test_a_domain_that_is_acted_on_tells_what_follows():
    domain = FakeDomain("nonconverging", speed=50)
    told, left = [], threading.Event()

    def take(event):
        told.append((event.kind, event.lifecycle))
        if event.kind == "job":
            left.set()

    domain.subscribe(take)
    while domain.now_ms() < 1000:
        domain.job_stats()
    domain.start_post_copy()
    assert left.wait(20)
    assert told[0] == ("iteration", None)
    assert [change for kind, change in told if kind == "lifecycle"] == [(3, 7), (5, 3)]
    domain.close()


def test_an_action_can_be_made_to_fail():
    domain = FakeDomain("nonconverging", refuse=frozenset({"abort"}))
    with pytest.raises(SourceError, match="abort refused"):
        domain.abort_job()
    assert domain.answer(10_000)["type"] == 2
    domain.suspend()
    assert domain.course.legs[-1].start_ms < 10_000


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("fake:///convrge", "did you mean 'converge'"),
        ("fake:///converge?sed=1", "did you mean 'seed'"),
        ("fake:///converge?seed=x", "invalid literal"),
        ("fake:///converge?seed=", "invalid literal"),
        ("fake:///converge?speed=0", "speed '0': must be more than 0"),
        ("fake:///converge?speed=-1", "speed '-1': must be more than 0"),
        ("fake:///converge?speed=nan", "speed 'nan': must be more than 0"),
        ("fake:///converge?speed=inf", "speed 'inf': must be more than 0, from 0.001 to 1000"),
        ("fake:///converge?speed=1e-300", "speed '1e-300': must be more than 0, from 0.001 to 1000"),
        ("fake:///converge?start_ms=1" + 400 * "0", "must be from -1000000000 to 1000000000"),
        ("fake:///converge?persistent=maybe", "persistent 'maybe': must be true or false"),
        ("fake://[/converge", "Invalid IPv6 URL"),
    ],
)
def test_a_wrong_uri_is_explained(uri, said):
    with pytest.raises(MigkitError, match=said):
        FakeDomain.from_uri(uri)


@pytest.mark.parametrize(
    ("word", "meant"), [("true", True), ("1", True), ("Yes", True), ("false", False), ("0", False)]
)
def test_persistent_is_read_as_it_is_meant(word, meant):
    assert FakeDomain.from_uri(f"fake:///converge?persistent={word}").persistent is meant

"""The fake host answers over one connection, as slowly as a real one."""

from __future__ import annotations

import threading

import pytest

from migkit.capture.fake import FakeDomain
from migkit.capture.fake_host import CALLS_AT_ONCE, FakeHost
from migkit.capture.source import SourceError, open_hypervisor
from migkit.errors import MigkitError


def test_a_uri_makes_domains_that_begin_one_after_the_other():
    made = open_hypervisor("fake:///converge?domains=3&every_ms=500&seed=7&speed=50")
    assert [name for _, name in made.running()] == ["fake-1", "fake-2", "fake-3"]
    assert [domain.course.plan.start_ms for domain in made.domains] == [0, 500, 1000]
    assert [domain.seed for domain in made.domains] == [7, 8, 9]
    made.close()


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("fake:///convrge?domains=2", "did you mean 'converge'?"),
        ("fake:///converge?domain=2", "did you mean 'domains'?"),
        ("fake:///converge?domains=0", "domains '0': must be from 1 to 1000"),
        ("fake:///converge?domains=many", "invalid literal"),
    ],
)
def test_a_uri_that_cannot_be_is_refused(uri, said):
    with pytest.raises(MigkitError) as caught:
        open_hypervisor(uri)
    assert said in str(caught.value)


def test_no_more_calls_are_answered_at_once_than_libvirtd_answers():
    made = FakeHost([FakeDomain("nonconverging", seed=k, speed=50) for k in range(20)], speed=50)
    inside, most, lock = [0], [0], threading.Lock()

    def counted(real):
        def job_stats():
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            try:
                return real()
            finally:
                with lock:
                    inside[0] -= 1

        return job_stats

    for domain in made.domains:
        domain.job_stats = counted(domain.job_stats)
    sources = [made.source(uuid, name) for uuid, name in made.running()]
    threads = [threading.Thread(target=lambda s=s: [s.job_stats() for _ in range(5)]) for s in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert 2 <= most[0] <= CALLS_AT_ONCE


def test_after_the_daemons_death_only_a_new_connection_answers_and_the_jobs_are_gone():
    made = FakeHost([FakeDomain("nonconverging", start_ms=-1000, speed=50)], speed=50)
    ((uuid, name),) = made.running()
    source = made.source(uuid, name)
    assert source.job_stats()["type"] == 2
    made.cut()
    for call in (made.running, source.job_stats, source.reopen, made.reopen):
        with pytest.raises(SourceError) as caught:
            call()
        assert caught.value.lost
    made.restore()
    with pytest.raises(SourceError, match="client socket is closed"):
        source.reopen()
    made.reopen()
    source.reopen()
    assert source.job_stats()["type"] == 0


def test_a_domain_with_a_listener_of_its_own_tells_nobody_else():
    made = FakeHost([FakeDomain("fast", seed=k, name=f"g{k}", speed=50) for k in range(2)], speed=50)
    strays, own, done = [], [], threading.Event()
    source = made.source(*made.running()[0])
    source.subscribe(lambda event: (own.append(event), event.kind == "job" and done.set()))
    made.subscribe(lambda uuid, name, event: strays.append(name))
    assert done.wait(60)
    source.close()
    made.close()
    assert {event.kind for event in own} == {"iteration", "lifecycle", "job"}
    assert set(strays) <= {"g1"}

"""All domains of a libvirt over one connection, as far as its built-in test driver goes."""

from __future__ import annotations

import os
import threading

import pytest

from migkit.capture.source import SourceError, open_hypervisor
from migkit.cli import main

try:
    import libvirt
except ImportError:
    if os.environ.get("MIGKIT_REQUIRE_LAB") == "1":
        raise
    pytest.skip("libvirt's bindings are not installed: pip install 'migkit[libvirt]'", allow_module_level=True)

from migkit.capture.libvirt_host import CALLS_AT_ONCE
from tests.capture.test_libvirt import Broken

TEST = "test:///default"


@pytest.fixture
def host():
    opened = open_hypervisor(TEST)
    yield opened
    opened.close()


@pytest.fixture
def domain(host):
    ((uuid, name),) = host.running()
    return host.source(uuid, name)


def test_a_domain_answers_over_the_hosts_connection(host, domain):
    assert domain.facts().domain.name == "test"
    assert domain.state() == (1, 0)
    assert [name for _, name in host.running()] == ["test"]


def test_errors_carry_libvirts_code(domain):
    with pytest.raises(SourceError, match="not supported") as caught:
        domain.job_stats()
    assert (caught.value.code, caught.value.lost) == (3, False)


def test_a_domain_that_is_not_there_is_an_error_of_the_call(host):
    with pytest.raises(SourceError) as caught:
        host.source("b6f3ac8e-0000-4000-8000-000000000001", "nobody").job_stats()
    assert (caught.value.code, caught.value.lost) == (42, False)


def test_events_go_to_the_domains_listener_and_else_to_the_hosts(host, domain):
    strays, own = [], []
    host.subscribe(lambda uuid, name, event: strays.append((name, event.kind)))
    guest = host.connection.lookupByName("test")
    host._take_iteration(None, guest, 4, None)
    domain.subscribe(own.append)
    host._take_lifecycle(None, guest, 5, 3, None)
    host._take_job(None, guest, {"operation": 5}, None)
    domain.close()
    host._take_iteration(None, guest, 5, None)
    assert strays == [("test", "iteration"), ("test", "iteration")]
    assert [event.kind for event in own] == ["lifecycle", "job"]
    assert (own[0].lifecycle, own[1].stats) == ((5, 3), {"operation": 5})


class Dead:
    """A connection whose daemon is gone."""

    def _fail(self, *_):
        raise Broken(38, "Cannot recv data: Connection reset by peer")

    lookupByUUIDString = getLibVersion = close = _fail  # noqa: N815


def test_after_a_loss_the_host_connects_once_for_all_its_domains(host, domain):
    host.subscribe(lambda *_: None)
    host.connection, host._domains = Dead(), {}
    for call in (domain.state, domain.reopen):
        with pytest.raises(SourceError, match="reset by peer") as caught:
            call()
        assert caught.value.lost
    host.reopen()
    domain.reopen()
    assert domain.state() == (1, 0)
    assert len(host._handles) == 3


def test_a_loss_that_was_none_needs_no_other_connection(host, domain):
    domain.state()
    domain.reopen()
    assert domain.state() == (1, 0)


def test_fewer_calls_are_under_way_than_the_daemon_takes_of_one_client(host, domain):
    ready, release, inside = threading.Semaphore(0), threading.Event(), []

    def slow(_connection, _domain):
        inside.append(1)
        ready.release()
        release.wait(60)

    uuid = host.running()[0][0]
    threads = [threading.Thread(target=host.ask, args=(uuid, slow)) for _ in range(CALLS_AT_ONCE + 3)]
    for thread in threads:
        thread.start()
    for _ in range(CALLS_AT_ONCE):
        assert ready.acquire(timeout=60)
    assert not ready.acquire(timeout=0.1)
    assert len(inside) == CALLS_AT_ONCE < 5
    release.set()
    for thread in threads:
        thread.join(60)


def test_no_permission_on_the_socket_says_what_to_do(capsys, monkeypatch, tmp_path):
    def refuse(_uri):
        raise libvirt.libvirtError("Failed to connect socket to '/run/libvirt/libvirt-sock-ro': Permission denied")

    monkeypatch.setattr(libvirt, "openReadOnly", refuse)
    assert main(["watch", "-c", "qemu:///system", "-o", str(tmp_path)]) == 1
    assert capsys.readouterr().err.endswith(
        "Permission denied; no permission on libvirt's socket: join the group libvirt, or run as root\n"
    )

"""libvirt itself, as far as its built-in test driver goes: who is there, and what a user reads when it fails."""

from __future__ import annotations

import os

import pytest

import migkit as mk
from migkit.capture.source import SourceError, open_source, open_witness
from migkit.cli import main
from migkit.errors import MigkitError

try:
    import libvirt
except ImportError:
    if os.environ.get("MIGKIT_REQUIRE_LAB") == "1":
        raise
    pytest.skip("libvirt's bindings are not installed: pip install 'migkit[libvirt]'", allow_module_level=True)

TEST = "test:///default"


@pytest.fixture
def domain():
    opened = open_source("test", TEST)
    yield opened
    opened.close()


def test_the_facts_of_a_domain(domain):
    facts = domain.facts()
    assert (facts.domain.name, facts.domain.memory_bytes) == ("test", 2 * 2**30)
    assert facts.host.libvirt_version.count(".") == 2
    assert facts.host.name
    assert (facts.provenance, facts.read_only) == ("recorded", True)
    assert domain.state() == (1, 0)


def test_a_domain_is_found_by_its_uuid_too(domain):
    same = open_source(domain.facts().domain.uuid, TEST)
    assert same.facts().domain.name == "test"
    same.close()


def test_errors_carry_libvirts_code(domain):
    with pytest.raises(SourceError, match="not supported") as caught:
        domain.job_stats()
    assert (caught.value.code, caught.value.lost) == (3, False)


class Broken(libvirt.libvirtError):
    """What a call meets when the daemon has gone."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text

    def get_error_code(self) -> int:
        return self.code

    def get_error_message(self) -> str:
        return self.text


@pytest.mark.parametrize(
    ("code", "text", "lost"),
    [
        (38, "Cannot recv data: Connection reset by peer", True),
        (1, "internal error: client socket is closed", True),
        (55, "Requested operation is not valid: domain is not running", False),
        (68, "Timed out during operation: cannot acquire state change lock", False),
    ],
)
def test_a_lost_connection_is_told_from_a_refused_call(code, text, lost, domain, monkeypatch):
    def fail():
        raise Broken(code, text)

    monkeypatch.setattr(domain._domain, "jobStats", fail)
    with pytest.raises(SourceError) as caught:
        domain.job_stats()
    assert (caught.value.code, caught.value.text, caught.value.lost) == (code, text, lost)
    domain.subscribe(lambda _: None)
    domain.reopen()
    assert domain.state() == (1, 0)


def test_lifecycle_events_arrive_stamped(domain):
    told = []
    domain.subscribe(told.append)
    taker = domain._take_lifecycle
    taker(None, None, 5, 3, None)
    domain._take_iteration(None, None, 4, None)
    domain._take_job(None, None, {"operation": 5}, None)
    assert [event.kind for event in told] == ["lifecycle", "iteration", "job"]
    assert (told[0].lifecycle, told[1].iteration, told[2].stats) == ((5, 3), 4, {"operation": 5})
    assert told[0].mono_ns <= told[1].mono_ns <= told[2].mono_ns


def test_a_destination_need_not_know_the_domain_yet(tmp_path):
    there = open_witness("b6f3ac8e-0000-4000-8000-000000000001", TEST)
    with pytest.raises(SourceError) as caught:
        there.completed_stats()
    assert (caught.value.code, caught.value.lost) == (42, False)
    there.reopen()
    there.close()


def test_a_driver_without_job_stats_is_said(tmp_path):
    with pytest.raises(MigkitError, match="test: job stats cannot be had: this function is not supported"):
        mk.record("test", uri=TEST, output=tmp_path / "a.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tets", "-c", TEST], "no domain 'tets': did you mean 'test'?"),
        (["zzzz", "-c", TEST], "no domain 'zzzz': known: test"),
        (["g", "-c", "qemu+unix:///system?socket=/nowhere/sock"], "No such file or directory; is libvirtd"),
        (["test", "-c", TEST, "--destination", "qemu+unix:///system?socket=/nowhere/s"], "/nowhere/s"),
        (["g", "-c", "qemu:///system", "--via", "nowhere-to-go x"], "--via: no command 'nowhere-to-go'"),
        (
            ["g", "-c", "qemu:///system", "--via", "sh -c 'echo the pod is gone >&2; exit 1' --"],
            "failed there: the pod",
        ),
        (["g", "-c", "qemu:///system", "--via", "sh -c 'exit 1' --", "--via-socket", "/s"], "socat - UNIX-CONNECT:/s"),
    ],
)
def test_what_cannot_be_reached_is_one_line(words, said, capsys, tmp_path):
    assert main(["record", *words, "-o", str(tmp_path / "a.parquet")]) == 1
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.startswith("migkit: ")
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("said_by_ssh", "words"),
    [
        ("Host key verification failed.", "the source is not trusted: SSH does not know its host key"),
        ("root@h: Permission denied (publickey).", "the source does not let SSH in: "),
        ("ssh: connect to host h port 22: Connection refused", "the source cannot be reached by SSH: "),
    ],
)
def test_what_ssh_says_is_handed_on_with_what_to_do(said_by_ssh, words, capsys, tmp_path):
    ssh = tmp_path / "ssh"
    ssh.write_text(f"#!/bin/sh\necho '{said_by_ssh}' >&2\nexit 255\n")
    ssh.chmod(0o700)
    output = tmp_path / "a.parquet"
    assert main(["record", "g", "-c", f"qemu+ssh://root@h/system?command={ssh}", "-o", str(output)]) == 1
    said = capsys.readouterr().err
    assert words in said
    assert said_by_ssh in said
    assert "; to do: " in said
    assert "libvirtd" not in said
    assert said.count("\n") == 1


def test_no_permission_on_the_socket_says_what_to_do(capsys, monkeypatch, tmp_path):
    def refuse(_uri):
        raise libvirt.libvirtError("Failed to connect socket to '/run/libvirt/libvirt-sock-ro': Permission denied")

    monkeypatch.setattr(libvirt, "openReadOnly", refuse)
    assert main(["record", "g", "-c", "qemu:///system", "-o", str(tmp_path / "a")]) == 1
    said = capsys.readouterr().err
    assert said.endswith(
        "Permission denied; no permission on libvirt's socket: join the group libvirt, or run as root\n"
    )
    assert said.count("\n") == 1


def test_a_limit_that_nobody_tells_is_none(domain, monkeypatch):
    """The bindings answer None when the connection goes away under this call, and raise nothing."""

    class Gone:
        def migrateGetMaxDowntime(self):  # noqa: N802
            return None

    monkeypatch.setattr(domain, "_domain", Gone())
    assert domain.max_downtime_ms() is None

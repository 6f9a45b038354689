"""`migkit migrate` and `migkit shadow` as a user meets them, on fake domains."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import migkit as mk
from migkit.capture.fake import FakeDomain
from migkit.capture.source import SourceError
from migkit.cli import main
from migkit.drivers.wakes import Woken
from tests.migration.test_volumes import HERE

POLICY = ["--policy", "kubevirt-1.8", "--set", "completion_timeout_per_gib=3"]


def fake(scenario: str, speed: int = 20) -> list[str]:
    return ["-c", f"fake:///{scenario}?speed={speed}"]


def words(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "migkit", *arguments]


def test_a_migration_that_completes_is_exit_0_and_a_line(tmp_path, capsys):
    path = tmp_path / "a.parquet"
    assert main(["migrate", "web1", "fake://there", *fake("fast"), *POLICY, "-o", str(path)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("web1: completed after ")
    assert out.endswith(f", 0 decisions that it would have made by kubevirt-1.8 -> {path}\n")
    assert err.splitlines()[0] == (
        "web1: the migration runs; kubevirt-1.8 (completion_timeout_per_gib=3) only says what it would do"
    )
    trace = mk.load(path)
    assert trace.meta.migration.flag_names[:3] == (
        "VIR_MIGRATE_LIVE", "VIR_MIGRATE_PEER2PEER", "VIR_MIGRATE_PERSIST_DEST"
    )  # fmt: skip
    assert trace.meta.migration.started_wall_ns is not None
    assert not Path(f"{path}.journal").exists()


def test_a_trace_that_cannot_be_begun_is_one_line_and_no_migration(tmp_path, capsys):
    path = tmp_path / "missing" / "a.parquet"
    assert main(["migrate", "web1", "fake://there", *fake("fast"), *POLICY, "-o", str(path)]) == 1
    assert capsys.readouterr().err == f"migkit: {path}.journal: cannot be written (No such file or directory)\n"


def test_a_daemon_that_dies_under_the_call_is_told_in_words(tmp_path, capsys):
    arguments = ["migrate", "web1", "fake://there", *fake("daemon-restart"), *POLICY, "-o", f"{tmp_path}/a.parquet"]
    assert main(arguments) == 1
    assert "the migration failed: the source's daemon went away: " in capsys.readouterr().err


def test_an_abort_is_exit_1_and_tells_both_sides(capsys):
    assert main(["migrate", "web1", "fake://there", *fake("nonconverging"), *POLICY, "--act"]) == 1
    out, err = capsys.readouterr()
    assert "1 decision done by kubevirt-1.8\nsource: the guest runs\ndestination: the guest is not there\n" in out
    assert "-> nothing is lost" in out
    assert "  4." in err
    assert "abort  timeout: " in err
    assert err.splitlines()[-1] == (
        "migkit: web1: the migration was cancelled by the policy: timeout "
        "[operation aborted: migration out: canceled by client]"
    )


def test_without_act_the_abort_is_only_said(capsys):
    assert main(["migrate", "web1", "fake://there", *fake("abort"), *POLICY, "--json"]) == 1
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (decision,) = (event for event in told if event["event"] == "decision")
    assert (decision["action"], decision["acted"]) == ("abort", False)
    assert (told[0]["event"], told[-1]["event"]) == ("begun", "end")
    assert told[-1]["error_code"] == 78


def test_a_shadow_acts_never_and_reads_only(tmp_path, capsys):
    path = tmp_path / "a.parquet"
    assert main(["shadow", "web1", *fake("abort"), *POLICY, "-o", str(path)]) == 1
    out, err = capsys.readouterr()
    assert "1 decision that it would have made by kubevirt-1.8" in out
    assert "the migration was cancelled: someone asked for it" in err
    assert "would abort  timeout" in err
    trace = mk.load(path)
    assert not (trace.samples["source"] == "action").any()
    assert trace.meta.rule is not None
    assert (trace.meta.rule.acted, len(trace.meta.rule.decisions)) == (False, 1)


def test_a_post_copy_that_fails_says_what_to_do(capsys):
    policy = ["--policy", "kubevirt-1.4", "--set", "allow_post_copy=true"]
    there = ["--destination", "qemu+unix:///system?socket=/nowhere"]
    assert main(["migrate", "web1", "fake://there", *fake("post-copy-failed"), *policy, "--act", *there]) == 1
    out, err = capsys.readouterr()
    assert "source: the guest is paused (post-copy failed)" in out
    assert "-> neither host has all of the guest's memory" in out
    assert "--postcopy-resume" in out
    assert err.splitlines()[-1].startswith("migkit: web1: post-copy failed: the connection, or one")


def test_a_post_copy_whose_destination_is_gone_is_not_advised_to_be_resumed(capsys):
    policy = ["--policy", "kubevirt-1.4", "--set", "allow_post_copy=true"]
    assert main(["migrate", "web1", "fake://there", *fake("post-copy-failed"), *policy, "--act"]) == 1
    out = capsys.readouterr().out
    assert "destination: the guest is not there\n-> what the destination had of the guest is gone" in out
    assert "--postcopy-resume" not in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["migrate", "a", "b", "--policy", "kubevirt-1.88"], "did you mean 'kubevirt-1.8'?"),
        (["migrate", "a", "b"], "migrate runs one policy: give --policy"),
        (["shadow", "a", "--policy", "kubevirt-1.8", "--policy", "kubevirt-1.9"], "shadow runs one policy"),
        (["shadow", "a", *POLICY, "--set", "progres_timeout=3"], "did you mean 'progress_timeout'?"),
        (["shadow", "a", *POLICY, "--interval", "0", *fake("fast")], "interval 0 ms"),
        (["migrate", "a", "b", *POLICY, "--bandwidth", "fast"], "'fast' is not a quantity"),
        (["migrate", "a", "host2", *POLICY, *fake("fast")], "e.g. qemu+ssh://host2/system"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_2(arguments, said, capsys):
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_a_destination_that_does_not_answer_is_no_hindrance(capsys):
    there = ["--destination", "qemu+unix:///system?socket=/nowhere"]
    assert main(["migrate", "a", "fake://b", *fake("failed"), *POLICY, *there]) == 1
    assert "destination: unknown: qemu+unix:///system?socket=/nowhere: " in capsys.readouterr().out


def test_a_migration_that_cannot_be_begun_is_one_line(capsys, monkeypatch):
    def refused(*_):
        raise SourceError(49, "Storage pool not found: no storage pool with matching target path")

    monkeypatch.setattr(FakeDomain, "migrate", refused)
    assert main(["migrate", "web1", "fake://b", *fake("fast"), *POLICY]) == 1
    err = capsys.readouterr().err
    assert err.startswith("migkit: web1: the migration did not begin: the destination has no place for a disk: ")
    assert err.count("\n") == 1


def test_masked_names_are_nowhere_in_the_trace(tmp_path):
    path = tmp_path / "a.parquet"
    where = ["--migrate-uri", "tcp://secret-host", "--mask-names", "-o", str(path)]
    assert main(["migrate", "secret-guest", "fake://secret-host", *fake("abort"), *POLICY, *where]) == 1
    assert b"secret" not in path.read_bytes()
    assert mk.load(path).meta.migration.flags is not None


def test_has_vfio_is_told_of_the_guest(tmp_path):
    path = tmp_path / "a.parquet"
    policy = ["--policy", "kubevirt-1.9", "--set", "has_vfio=true", "--set", "completion_timeout_per_gib=4"]
    policy += ["--set", "allow_workload_disruption=true", "--act"]
    assert main(["migrate", "a", "fake://b", *fake("nonconverging"), *policy, "-o", str(path)]) == 0
    rule = mk.load(path).meta.rule
    assert rule is not None
    assert [(d["action"], d["argument"]) for d in rule.decisions] == [("set_max_downtime", 8000)]
    assert mk.replay(mk.load(path), mk.kubevirt("1.9", completion_timeout_per_gib=4, allow_workload_disruption=True),
                     ).decisions["argument"].tolist() == [8000]  # fmt: skip


XML = (HERE / "domain.xml").read_text()


def asked_as_told(capsys, tmp_path, *words: str) -> mk.Trace:
    """The trace of a migration of the VMI, which asked for what `migkit flags` tells of it."""
    tmp_path.mkdir(exist_ok=True)
    vmi, xml, path = str(HERE / "vmi.yaml"), tmp_path / "domain.xml", tmp_path / "a.parquet"
    xml.write_text(XML)
    arguments = ["migrate", "web1", "fake://b", *fake("fast"), "--policy", "kubevirt-1.9", "--config", vmi, *words]
    assert main([*arguments, "-o", str(path)]) == 0
    capsys.readouterr()
    assert main(["flags", "--version", "1.9", "--vmi", vmi, "--xml", str(xml), *words, "--json"]) == 0
    told, trace = json.loads(capsys.readouterr().out), mk.load(path)
    asked, rule = trace.meta.migration, trace.meta.rule
    assert (asked.flags, asked.flag_names) == (told["flags"], tuple(told["flag_names"]))
    assert asked.parameters == told["parameters"]
    assert rule is not None
    assert (rule.data_size_gb, rule.has_vfio) == (told["data_size_gb"], told["has_vfio"])
    return trace


def test_a_vmi_is_migrated_as_flags_tells_of_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(FakeDomain, "xml", lambda self: XML)
    trace = asked_as_told(capsys, tmp_path)
    assert trace.meta.migration.flags == 131211
    assert trace.meta.migration.parameters["migrate_disks"] == ["vdb", "vdc", "vdd", "vde", "vdf"]
    assert trace.meta.rule is not None
    assert trace.meta.rule.data_size_gb == 21
    more = asked_as_told(capsys, tmp_path / "more", "--ephemeral", "2Gi", "--set", "bandwidth_per_migration=64Mi")
    assert more.meta.rule is not None
    assert more.meta.rule.data_size_gb == 23


def test_what_the_command_line_says_of_a_vmi_wins(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(FakeDomain, "xml", lambda self: XML)
    path = tmp_path / "a.parquet"
    words = ["--config", str(HERE / "vmi.yaml"), "--data-size-gb", "7", "--set", "has_vfio=true", "-o", str(path)]
    assert main(["migrate", "web1", "fake://b", *fake("fast"), "--policy", "kubevirt-1.9", *words]) == 0
    rule = mk.load(path).meta.rule
    assert rule is not None
    assert (rule.data_size_gb, rule.has_vfio) == (7, True)


def test_a_libvirt_that_cannot_detect_zeroes_is_not_asked_to(tmp_path, capsys, monkeypatch):
    known = FakeDomain.facts

    def facts(domain):
        found = known(domain)
        return dataclasses.replace(found, host=dataclasses.replace(found.host, libvirt_version="9.0.0"))

    monkeypatch.setattr(FakeDomain, "xml", lambda self: XML)
    monkeypatch.setattr(FakeDomain, "facts", facts)
    path = tmp_path / "a.parquet"
    words = ["--config", str(HERE / "vmi.yaml"), "-o", str(path), "--json"]
    assert main(["migrate", "web1", "fake://b", *fake("fast"), "--policy", "kubevirt-1.9", *words]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    notes = [event["text"] for event in told if event["event"] == "note"]
    assert "migrate_disks_detect_zeroes is left out: libvirt 9.0.0 does not know it" in notes[0]
    assert notes[1].startswith("data, blockdata move to other storage: the destination gets the domain's own paths")
    assert set(mk.load(path).meta.migration.parameters) == {"parallel.connections", "migrate_disks"}


def test_a_shadow_takes_the_size_and_the_devices_of_the_vmi(tmp_path):
    path, vmi = tmp_path / "a.parquet", tmp_path / "vmi.yaml"
    vmi.write_text((HERE / "vmi.yaml").read_text().replace("masquerade", "sriov"))
    words = ["--policy", "kubevirt-1.9", "--config", str(vmi), "-o", str(path)]
    assert main(["shadow", "web1", *fake("fast"), *words]) == 0
    rule = mk.load(path).meta.rule
    assert rule is not None
    assert (rule.data_size_gb, rule.has_vfio) == (21, True)


def _started(*arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(words(*arguments, "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while json.loads(process.stdout.readline())["event"] != "progress":
        pass
    return process


def test_ctrl_c_cancels_the_migration_that_was_begun_here(tmp_path):
    process = _started("migrate", "web1", "fake://b", *fake("nonconverging", 1), *POLICY, "-o", str(tmp_path / "a"))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert json.loads(out.splitlines()[-1])["outcome"] == "cancelled"
    assert err.startswith("migkit: web1: the migration was cancelled by Ctrl-C [")
    assert err.count("\n") == 1
    done = mk.load(tmp_path / "a").samples
    assert list(done.loc[done["source"] == "action", "action"]) == ["abort", "migrate"]


def test_a_signal_that_is_passed_on_twice_at_once_is_one_ctrl_c(tmp_path):
    process = _started("migrate", "web1", "fake://b", *fake("nonconverging", 1), *POLICY, "-o", str(tmp_path / "a"))
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert json.loads(out.splitlines()[-1])["outcome"] == "cancelled"


def test_a_migration_that_runs_already_is_not_taken_for_ones_own(capsys, monkeypatch):
    monkeypatch.setattr(FakeDomain, "job_stats", lambda self: {"type": 2, "time_elapsed": 3})
    assert main(["migrate", "web1", "fake://b", *fake("idle"), *POLICY]) == 1
    err = capsys.readouterr().err
    assert err.startswith("migkit: web1: a migration or another job of it runs already: look on with migkit shadow")
    assert err.count("\n") == 1


def test_ctrl_c_leaves_a_migration_alone_that_somebody_else_has_begun(tmp_path):
    process = _started("shadow", "web1", *fake("nonconverging", 1), *POLICY, "-o", str(tmp_path / "a"))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    end = json.loads(out.splitlines()[-1])
    assert (process.returncode, end["outcome"], end["source"]) == (1, "interrupted", "the guest runs")
    assert end["advice"] == [
        "the migration goes on by itself: look on with migkit shadow, end it with virsh domjobabort"
    ]
    assert err.startswith("migkit: web1: stopped watching, the migration is left to libvirt")
    assert mk.load(tmp_path / "a").meta.end.outcome == "interrupted"


def test_a_killed_one_leaves_its_wakes_and_its_rule_in_the_journal(tmp_path):
    process = _started("migrate", "web1", "fake://b", *fake("nonconverging", 1), *POLICY, "-o", str(tmp_path / "a"))
    process.kill()
    process.communicate(timeout=60)
    trace = mk.load(mk.recover(tmp_path / "a.journal").path)
    assert (trace.samples["source"] == "wake").any()
    assert trace.meta.rule is not None
    assert (trace.meta.rule.policy, trace.meta.rule.data_size_gb) == ("kubevirt-1.8", 1)


def test_nothing_is_left_running_after_the_end():
    before = set(threading.enumerate())
    assert main(["migrate", "a", "fake://b", *fake("fast"), *POLICY]) == 0
    left = [thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("migkit")]
    assert left == []


def test_a_terminal_gets_lines_that_are_drawn_anew_and_decisions_that_stay(tmp_path):
    master, slave = pty.openpty()
    process = subprocess.Popen(
        words("migrate", "a", "fake://b", *fake("nonconverging", 5), *POLICY, "--act"),
        stdout=subprocess.PIPE, stderr=slave, env=os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "24"},
    )  # fmt: skip
    os.close(slave)
    seen = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:
            break
        seen += part
    process.communicate(timeout=60)
    os.close(master)
    text = seen.decode()
    assert "\x1b[3A\r\x1b[J" in text
    assert re.search(r"\[#+\.+\] +\d+%  \d+ MiB left of 256 MiB", text)
    assert "completion deadline in " in text
    assert text.count("abort  timeout") == 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["migrate", "web1", "fake://b", "--policy", "kubevirt-1.88"], "did you mean 'kubevirt-1.8'?"),
        (["migrate", "web1", "host2", *POLICY, *fake("fast")], "e.g. qemu+ssh://host2/system"),
        (["shadow", "web1", *POLICY, "--config", "/nowhere.yaml"], "/nowhere.yaml: no such file"),
        (["shadow", "web1", *POLICY, "-c", "fake:///nothing"], "unknown fake scenario 'nothing'"),
    ],
)
def test_a_program_gets_an_end_where_nothing_began(arguments, problem, capsys):
    assert main([*arguments, "--json"]) in (1, 2)
    (line,) = capsys.readouterr().out.splitlines()
    end = json.loads(line)
    assert (end["event"], end["outcome"], end["failure"]) == ("end", "not-begun", None)
    assert problem in end["problem"]


def test_a_program_gets_the_words_of_a_refusal(capsys, monkeypatch):
    def refused(*_):
        raise SourceError(49, "Storage pool not found: no storage pool with matching target path")

    monkeypatch.setattr(FakeDomain, "migrate", refused)
    assert main(["migrate", "web1", "fake://b", *fake("fast"), *POLICY, "--json"]) == 1
    end = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (end["outcome"], end["error_code"]) == ("not-begun", 49)
    assert end["error_text"].startswith("Storage pool not found")
    assert end["failure"]["what"] == "the destination has no place for a disk"
    assert end["problem"].startswith("web1: the migration did not begin")


def test_a_program_is_not_told_that_nothing_began_once_something_has(capsys, monkeypatch):
    def broken(*_):
        raise RuntimeError("a defect")

    monkeypatch.setattr(Woken, "wake", broken)
    assert main(["migrate", "web1", "fake://b", *fake("nonconverging"), *POLICY, "--json"]) == 1
    end = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (end["event"], end["outcome"]) == ("end", "lost")
    assert "a defect of migkit" in end["problem"]


def test_the_exit_code_tells_of_a_failure_that_nobody_reads_of():
    process = _started("migrate", "web1", "fake://b", *fake("nonconverging"), *POLICY, "--act")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr:
        err = process.stderr.read()
    assert process.wait(timeout=60) == 1
    assert err.startswith("migkit: web1: the migration was cancelled by the policy: timeout [")
    assert err.count("\n") == 1


def test_a_failure_of_which_nobody_told_the_reason_is_said_once(capsys):
    assert main(["shadow", "web1", *fake("failed"), *POLICY]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("migkit: web1: the migration failed: whoever asked for")

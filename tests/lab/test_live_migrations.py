"""Real migrations under a policy that acts: each kind of action by a version that does it, its trace, and the law."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import migkit as mk
from migkit.capture.source import EVENT_SUSPENDED
from migkit.drivers.beside import SAME_SIGNAL_S
from migkit.drivers.wakes import LIVE_COLUMNS, decisions_table
from migkit.lab import guest, hosts
from migkit.lab.run import booted, run
from migkit.lab.scenario import Action, Guest, Migration, Scenario
from migkit.lab.under import Migrating, Under
from migkit.migration import MigrationOptions, request
from migkit.migration.plan import known_to
from migkit.units import MIB
from tests.drivers.law import as_the_monitor_read, assert_within_the_spread, numbered, without_wakes

if TYPE_CHECKING:
    from migkit.lab.hosts import Lab
    from migkit.lab.run import Run
    from migkit.policies import Policy

pytestmark = pytest.mark.lab

# Random writes at twice the bandwidth never converge; a hot set of 20 MiB needs 650 ms, the limit of 300 ms is too low.
BUSY = Guest(pattern="random", ws_mib=64, rate_mibps=64)
HOT = Guest(pattern="hotcold", ws_mib=128, rate_mibps=64, hot_ratio=0.16)
BURSTY = Guest(pattern="bursty", ws_mib=64, rate_mibps=64, rest_mibps=20, burst_on_s=2, burst_off_s=2)
CALM = Guest(memory_mib=320, pattern="sequential", ws_mib=192, rate_mibps=4)
MIGRATION = Migration(bandwidth_mibps=32)


def scenario(about: Guest, *actions: Action, name: str = "under-policy", **changes: Any) -> Scenario:
    migration = Migration(**{"bandwidth_mibps": 32} | changes)
    return Scenario(name=name, description="", seconds=30, guest=about, migration=migration, actions=actions)


def under(policy: str, **options: Any) -> Under:
    words = [word for name, value in options.items() for word in ("--set", f"{name}={str(value).lower()}")]
    return Under.of(policy.split("-")[1], ["--policy", policy, "--act", *words])


def migrated(lab: Lab, output: Path, asked: Scenario, policy: str, **options: Any) -> Run:
    """The migration, its trace checked against the law, its downtime against the guest's own."""
    made = run(asked, lab, output, under=under(policy, **options))[-1]
    assert_the_law(made.trace, policy, options)
    assert_rebuilt_wakes_agree(made.trace, policy, options)
    assert_the_guest_stood_still_as_told(made.trace)
    return made


def policy_of(policy: str, options: Mapping[str, Any]) -> Policy:
    return mk.policy(policy, **{name: value for name, value in options.items() if name != "has_vfio"})


def assert_the_law(trace: mk.Trace, policy: str, options: Mapping[str, Any]) -> None:
    rule = trace.meta.rule
    assert rule is not None
    again = mk.replay(trace, policy_of(policy, options))
    assert again.wakes_recorded
    replayed = again.decisions[list(LIVE_COLUMNS)].astype({"argument": object})
    assert list(rule.decisions) == replayed.where(replayed.notna(), None).to_dict(orient="records")
    assert again.result == rule.result
    done = set(trace.samples["action"].dropna()) - {"migrate"}
    if rule.acted and done == {d["action"] for d in rule.decisions}:  # nobody else did anything
        assert again.divergence_s is None


def actions(trace: mk.Trace) -> list[tuple[str, Any, str]]:
    """What was done, with its argument and why."""
    assert trace.meta.rule is not None
    assert all(d["succeeded"] for d in trace.meta.rule.decisions)
    return [(d["action"], d["argument"], d["reason"]) for d in trace.meta.rule.decisions]


def assert_rebuilt_wakes_agree(trace: mk.Trace, policy: str, options: Mapping[str, Any]) -> None:
    """What a recorder alone would have left tells the same decisions, within its spread."""
    assert trace.meta.rule is not None
    rebuilt = mk.replay(without_wakes(as_the_monitor_read(trace)), policy_of(policy, options))
    assert_within_the_spread(decisions_table(trace.meta.rule.decisions), rebuilt)


# The most by which a guest of the bundled traces stood still longer than from its stop to the job's end, and as much
# again for a busier machine: the first lines of the destination's serial port come late there.
LATE_MS = 300


def assert_the_guest_stood_still_as_told(trace: mk.Trace) -> None:
    """The heartbeat's gap holds the pause that libvirt reports, which is taken no more exactly than by the sampling;
    it lies between the guest's stop on the source, be that for the switchover, post-copy or a suspension, and the
    job's end. After post-copy the reported pause is only the switchover's, so the gap is longer."""
    beat, end = trace.meta.heartbeat, trace.meta.end
    assert beat is not None
    if end.outcome != "completed":
        return
    assert beat.downtime_ms is not None
    assert end.completed is not None
    stopped = trace.samples["lifecycle_event"] == EVENT_SUSPENDED
    stopped_ms = 1000 * trace.t_s[stopped.fillna(False).to_numpy(dtype=bool)][0]
    reported_ms, gap_ms = end.completed["downtime"], end.completed["time_elapsed"] - stopped_ms
    least_ms = max(beat.interval_ms, reported_ms - trace.meta.cadence.interval_ms)
    assert least_ms <= beat.downtime_ms <= gap_ms + LATE_MS


@pytest.mark.smoke
def test_post_copy_at_the_deadline_as_1_4_does_it(lab: Lab, tmp_path: Path) -> None:
    options = {"completion_timeout_per_gib": 4, "allow_post_copy": True}
    made = migrated(lab, tmp_path, scenario(BUSY), "kubevirt-1.4", **options)
    trace = made.trace
    assert actions(trace) == [("start_post_copy", None, "timeout")]
    assert (trace.meta.end.outcome, trace.meta.end.evidence) == ("completed", "job-completed event")
    assert "VIR_MIGRATE_POSTCOPY" in trace.meta.migration.flag_names
    assert [event["event"] for event in made.told if event["event"] != "progress"] == [
        "begun", "decision", "call", "end"
    ]  # fmt: skip


STALL = {"stall_progress_timeout": 2, "completion_timeout_per_gib": 60}
DISRUPT = {"allow_workload_disruption": True}
# policy, options, guest, what it does, how it ends
KINDS: dict[str, tuple[str, dict[str, Any], Guest, list[tuple[str, Any, str]], str]] = {
    "post-copy in a stall": (
        "kubevirt-1.9-stall", STALL | {"allow_post_copy": True}, BUSY,
        [("set_max_downtime", 300, "initial-downtime"), ("start_post_copy", None, "stall-post-copy")], "completed",
    ),
    "suspend": (
        "kubevirt-1.8", {"completion_timeout_per_gib": 4} | DISRUPT, BUSY, [("suspend", None, "timeout")], "completed",
    ),
    "any downtime in a stall": (
        "kubevirt-1.9-stall", STALL | DISRUPT, BUSY,
        [("set_max_downtime", 300, "initial-downtime"), ("set_max_downtime", 2_000_000, "stall-hard-stop")],
        "completed",
    ),
    "an accepted downtime in a stall": (
        "kubevirt-1.9-stall", STALL, HOT,
        [("set_max_downtime", 300, "initial-downtime"), ("set_max_downtime", 900, "stall-soft-stop")], "completed",
    ),
    "abort in a stall": (
        "kubevirt-1.9-stall", STALL, BUSY,
        [("set_max_downtime", 300, "initial-downtime"), ("abort", None, "stall-abort")], "cancelled",
    ),
    "any downtime with VFIO": (
        "kubevirt-1.9", {"completion_timeout_per_gib": 4, "has_vfio": True} | DISRUPT, BUSY,
        [("set_max_downtime", 8000, "timeout")], "completed",
    ),
    "abort at the deadline": (
        "kubevirt-1.8", {"completion_timeout_per_gib": 4}, BUSY, [("abort", None, "timeout")], "cancelled",
    ),
    "abort at the deadline, asynchronously": (
        "kubevirt-1.9", {"completion_timeout_per_gib": 4}, BUSY, [("abort", None, "timeout")], "cancelled",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_version_does_is_done(lab: Lab, tmp_path: Path, kind: str) -> None:
    policy, options, about, wanted, outcome = KINDS[kind]
    trace = migrated(lab, tmp_path, scenario(about), policy, **options).trace
    assert actions(trace) == wanted
    assert trace.meta.end.outcome == outcome
    assert trace.meta.heartbeat is not None
    assert (trace.meta.heartbeat.downtime_ms is not None) == (outcome == "completed")


def test_a_migration_that_makes_no_progress_is_aborted(lab: Lab, tmp_path: Path) -> None:
    stopped = Action(at_s=3, do="stop_destination", seconds=12)
    made = migrated(lab, tmp_path, scenario(CALM, stopped), "kubevirt-1.8", progress_timeout=3)
    assert actions(made.trace) == [("abort", None, "stuck")]
    assert made.trace.meta.end.outcome == "cancelled"
    end = made.told[-1]
    assert end["source"] == "the guest runs"
    assert end["advice"][0].startswith("nothing is lost")


def test_the_downtime_limit_is_raised_step_by_step(lab: Lab, tmp_path: Path) -> None:
    options = {"cooldown_seconds": 2, "steps": 3, "start_after_iteration": 2}
    trace = migrated(lab, tmp_path, scenario(HOT), "kubevirt-main-tuning", **options).trace
    limits = [argument for _, argument, _ in actions(trace)]
    assert limits == [150, 400, 650, 900][: len(limits)]
    assert len(limits) >= 3
    assert trace.meta.end.outcome == "completed"


def test_a_stall_is_found_in_a_guest_that_writes_in_bursts(lab: Lab, tmp_path: Path) -> None:
    options = {"stall_progress_timeout": 6, "completion_timeout_per_gib": 60, "allow_post_copy": True}
    trace = migrated(lab, tmp_path, scenario(BURSTY), "kubevirt-1.9-stall", **options).trace
    first, last = actions(trace)
    assert (first[0], last) == ("set_max_downtime", ("start_post_copy", None, "stall-post-copy"))
    assert trace.meta.end.outcome == "completed"


VMI = """
kind: VirtualMachineInstance
apiVersion: kubevirt.io/v1
metadata: {name: lab, namespace: lab}
spec:
  domain: {memory: {guest: 256Mi}, devices: {}}
  volumes: [{name: virtio-disk0, emptyDisk: {capacity: 32Mi}}]
status: {migrationMethod: BlockMigration}
"""


def test_a_disk_is_copied_because_the_vmi_says_so(lab: Lab, tmp_path: Path) -> None:
    vmi = tmp_path / "vmi.yaml"
    vmi.write_text(VMI)
    about = Guest(pattern="sequential", ws_mib=64, rate_mibps=2, disk_mib=32)
    asked = scenario(about, name="vmi-disk", bandwidth_mibps=64)
    by_vmi = Under.of("1.9", ["--policy", "kubevirt-1.9", "--config", str(vmi), "--act"])
    made = run(asked, lab, tmp_path, under=by_vmi)[-1]
    trace, meta = made.trace, made.trace.meta
    assert meta.end.outcome == "completed"
    assert meta.migration.flag_names[-1] == "VIR_MIGRATE_NON_SHARED_INC"
    assert meta.migration.parameters["migrate_disks"] == ["vda"]
    assert trace.samples["disk_total_bytes"].max() == 32 * MIB
    zeroes = known_to(
        meta.host.libvirt_version, request("1.9", MigrationOptions(), block_migration=True, copy_disks=["vda"])
    )
    assert ("migrate_disks_detect_zeroes" in meta.migration.parameters) == (not zeroes.notes)
    assert [e["text"] for e in made.told if e["event"] == "note"] == list(zeroes.notes)
    assert meta.rule is not None
    assert meta.rule.data_size_gb == 1
    assert_the_law(trace, "kubevirt-1.9", {})


# --- faults -----------------------------------------------------------------------------------------------------------

POST_COPY = {"completion_timeout_per_gib": 3, "allow_post_copy": True}
BROKE = "the connection between the two QEMUs broke"
# what happens, how it ends, what is said of it (`failure.what`; "or" where either of two sees it first), how the guest
# on the source is
FAULTS: dict[str, tuple[Scenario, dict[str, Any], str, str, str]] = {
    "the source's daemon is killed": (
        scenario(CALM, Action(at_s=4, do="restart_source_daemon")), {}, "failed", "the source's daemon went away",
        "the guest runs",
    ),
    "the destination's daemon is killed": (
        scenario(CALM, Action(at_s=4, do="restart_destination_daemon")), {}, "failed",
        "the two daemons lost each other", "the guest runs",
    ),
    "the destination's QEMU is killed": (
        scenario(CALM, Action(at_s=4, do="kill_destination")), {}, "failed",
        f"{BROKE} or a QEMU ended by itself", "the guest runs",
    ),
    "the link is dead": (
        scenario(CALM, Action(at_s=3, do="link_down", seconds=60)), {}, "failed", "the two daemons lost each other",
        "the guest runs",
    ),
    "the socket is cut in post-copy": (
        scenario(BUSY, Action(at_s=7, do="cut_socket"), link_mibps=8), POST_COPY, "postcopy-failed",
        "post-copy failed", "the guest is paused (post-copy failed)",
    ),
    "the guest is destroyed": (
        scenario(CALM, Action(at_s=4, do="destroy_guest")), {}, "failed", "the source's QEMU ended",
        "the guest is not there",
    ),
    "somebody cancels it": (
        scenario(CALM, Action(at_s=4, do="abort")), {}, "cancelled", "cancelled", "the guest runs",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_ends_with_a_true_outcome_and_a_readable_reason(lab: Lab, tmp_path: Path, fault: str) -> None:
    asked, options, outcome, what, source = FAULTS[fault]
    made = migrated(lab, tmp_path, asked, "kubevirt-1.8", **options)
    end, told = made.trace.meta.end, made.told[-1]
    if outcome == "cancelled" and "Unable to write to socket" in end.error_text:
        outcome, what = "failed", BROKE  # QEMU met the closed socket before it had cancelled, and says so
    assert (end.outcome, told["outcome"]) == (outcome, outcome)
    assert end.failure is not None
    assert end.failure.what in what.split(" or "), end.error_text
    assert told["failure"]["what"] == end.failure.what
    assert end.failure.why
    assert told["source"] == source
    assert told["advice"]
    assert made.trace.active.sum() > 10


def test_somebody_else_starts_post_copy(lab: Lab, tmp_path: Path) -> None:
    asked = scenario(BUSY, Action(at_s=3, do="start_post_copy"))
    trace = migrated(lab, tmp_path, asked, "kubevirt-1.8", allow_post_copy=True).trace
    assert actions(trace) == []
    assert trace.meta.end.outcome == "completed"


def count(migrating: Migrating, event: str) -> int:
    """How many objects of a kind it has printed."""
    return sum(told["event"] == event for told in list(migrating.told))


@contextmanager
def running(lab: Lab, asked: Scenario, output: Path, *words: str) -> Iterator[Migrating]:
    """`migkit migrate` while it runs, in a thread."""
    with lab.busy(), booted(asked, lab, guest.image(), first=True):
        migrating = Migrating(lab, asked, Under.of("1.8", ["--policy", "kubevirt-1.8", *words]), output)
        failed: list[BaseException] = []

        def go() -> None:
            try:
                migrating.run()
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=go)
        thread.start()
        try:
            assert hosts.wait_until(lambda: count(migrating, "progress") > 0, 60)
            yield migrating
            thread.join(60)
            assert not thread.is_alive()
        finally:
            migrating.close()
            thread.join(10)


def test_a_full_disk_stops_the_recording_and_not_the_policy(lab: Lab, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(small)], check=True)
    try:
        options = ["--act", "--set", "completion_timeout_per_gib=6"]
        with running(lab, scenario(BUSY), small / "a.parquet", *options) as migrating:
            pass
        assert migrating.process is not None
        assert migrating.process.returncode == 1
        end = migrating.told[-1]
        assert (end["outcome"], end["decisions"], end["path"]) == ("cancelled", 1, None)
        assert "No space left on device" in end["problem"]
        assert f"migkit recover {small}/a.parquet.journal" in end["problem"]
        assert any(e["event"] == "note" and "the policy goes on" in e["text"] for e in migrating.told)
        kept = mk.recover(small / "a.parquet.journal", tmp_path / "kept.parquet")
    finally:
        subprocess.run(["umount", str(small)], check=True)
    trace = mk.load(kept.path)
    assert trace.active.sum() > 10
    assert (trace.samples["source"] == "wake").sum() > 2


def test_libvirt_goes_on_when_migkit_is_killed_and_its_trace_is_recovered(lab: Lab, tmp_path: Path) -> None:
    asked, output = scenario(CALM), tmp_path / "a.parquet"
    with running(lab, asked, output, "--act") as migrating:
        assert migrating.process is not None
        assert hosts.wait_until(lambda: count(migrating, "progress") >= 4, 30)
        migrating.process.kill()
        assert hosts.wait_until(lambda: lab.a.qemu(asked.name) is None and lab.b.qemu(asked.name) is not None, 60)
    trace = mk.load(mk.recover(output.with_name("a.parquet.journal")).path)
    assert trace.meta.end.outcome == "interrupted"
    assert trace.meta.rule is not None
    assert (trace.meta.rule.policy, trace.meta.rule.acted) == ("kubevirt-1.8", True)
    assert mk.replay(trace, mk.kubevirt("1.8")).wakes_recorded


def test_ctrl_c_cancels_the_migration(lab: Lab, tmp_path: Path) -> None:
    with running(lab, scenario(CALM), tmp_path / "a.parquet") as migrating:
        assert migrating.process is not None
        migrating.process.send_signal(signal.SIGINT)
    end = migrating.told[-1]
    assert (migrating.process.returncode, end["outcome"], end["source"]) == (1, "cancelled", "the guest runs")


def test_post_copy_cannot_be_cancelled_and_a_second_ctrl_c_leaves_it_to_libvirt(lab: Lab, tmp_path: Path) -> None:
    asked = scenario(BUSY, name="left-alone", link_mibps=8)
    options = ["--set", "completion_timeout_per_gib=3", "--set", "allow_post_copy=true", "--act"]
    with running(lab, asked, tmp_path / "a.parquet", *options) as migrating:
        process = migrating.process
        assert process is not None
        assert hosts.wait_until(lambda: count(migrating, "decision") > 0, 30)
        seen = count(migrating, "progress")
        assert hosts.wait_until(lambda: count(migrating, "progress") >= seen + 2, 30)
        process.send_signal(signal.SIGINT)
        assert hosts.wait_until(lambda: count(migrating, "call") > 0, 30)
        time.sleep(2 * SAME_SIGNAL_S)
        process.send_signal(signal.SIGINT)
        process.wait(20)
        assert hosts.wait_until(lambda: lab.a.qemu(asked.name) is None, 60)
    (call,) = (e for e in migrating.told if e["event"] == "call")
    assert (call["action"], call["succeeded"]) == ("abort", False)
    assert (process.returncode, migrating.told[-1]["outcome"]) == (1, "interrupted")


def test_a_shadow_through_a_prefix_says_what_it_would_do_and_does_nothing(lab: Lab, tmp_path: Path) -> None:
    asked, output = scenario(BUSY, name="shadowed"), tmp_path / "shadow.parquet"
    with running(lab, asked, tmp_path / "a.parquet", "--act", "--set", "completion_timeout_per_gib=8"):
        words = [
            "-m",
            "migkit",
            "shadow",
            asked.name,
            "-c",
            "qemu:///system",
            "--via",
            shlex.join(lab.a.prefix),
            "--json",
        ]
        words += ["--json", "--policy", "kubevirt-1.9", "--set", "completion_timeout_per_gib=5", "-o", str(output)]
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60, check=False)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert [(e["action"], e["acted"]) for e in told if e["event"] == "decision"] == [("abort", False)]
    trace = mk.load(output)
    assert (trace.meta.end.outcome, trace.meta.cadence.read_only) == ("cancelled", True)
    assert not (trace.samples["source"] == "action").any()
    assert_the_law(trace, "kubevirt-1.9", {"completion_timeout_per_gib": 5})
    assert numbered(mk.replay(trace, mk.kubevirt("1.9", completion_timeout_per_gib=5)).decisions)

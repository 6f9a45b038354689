"""A campaign: what its file may say, that it goes on where it was left, and that nothing is left of it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from migkit.cli import main
from migkit.errors import MigkitError
from migkit.lab import campaign, hosts, lane, scenario
from migkit.lab.campaign import Entry

SCENARIOS = scenario.load()
GOOD = """
seed = 7
[idle]
repeats = 2
[post-copy]
interval_ms = 50
"""


def loaded(tmp_path: Path, text: str, repeats: int | None = None) -> list[Entry]:
    path = tmp_path / "set.toml"
    path.write_text(text)
    return campaign.load(path, SCENARIOS, repeats=repeats)


class FakeRunner:
    """Writes an empty trace, or does what it was given to do."""

    def __init__(self, output: Path, behaviour: Callable[[Entry], None] = lambda entry: None) -> None:
        self.made: list[str] = []
        self.stopped = threading.Event()
        self._output, self._behaviour = output, behaviour

    def make(self, entry: Entry) -> str:
        self._behaviour(entry)
        for name in entry.traces:
            (self._output / f"{name}.parquet").touch()
        self.made.append(entry.name)
        return f"{entry.name}: completed"

    def stop(self) -> None:
        self.stopped.set()


def test_a_file_names_every_migration_the_longest_first(tmp_path: Path) -> None:
    entries = loaded(tmp_path, GOOD)
    assert [entry.name for entry in entries] == ["post-copy", "idle", "idle-2"]
    assert [entry.interval_ms for entry in entries] == [50, 100, 100]
    assert len({entry.seed for entry in entries}) == 3
    assert entries == loaded(tmp_path, GOOD)


def test_repeats_hold_where_the_file_says_nothing(tmp_path: Path) -> None:
    names = {entry.name for entry in loaded(tmp_path, GOOD, repeats=3)}
    assert names == {"idle", "idle-2", "post-copy", "post-copy-2", "post-copy-3"}


def test_a_pair_leaves_two_traces(tmp_path: Path) -> None:
    first, second = loaded(tmp_path, "[pair-large]\nrepeats = 2")
    assert first.traces == ("pair-large", "pair-small")
    assert second.traces == ("pair-large-2", "pair-small-2")


def test_the_bundled_set_is_large_and_repeats_a_third() -> None:
    entries = campaign.load(None, SCENARIOS)
    assert len(entries) >= 60
    repeated = {entry.scenario.name for entry in entries if entry.repeat > 1}
    assert 3 * len(repeated) >= len({entry.scenario.name for entry in entries})
    assert sum(240 <= entry.scenario.seconds <= 480 for entry in entries) >= 12
    assert {entry.interval_ms for entry in entries} >= {50, 100}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[post-cpy]", "did you mean 'post-copy'"),
        ("[idle]\nrepeat = 2", "did you mean 'repeats'"),
        ("[idle]\nrepeats = 0", "idle.repeats: must be a whole number, at least 1"),
        ("[idle]\ninterval_ms = true", "idle.interval_ms: must be a whole number"),
        ("seed = 'x'\n[idle]", "seed: must be a whole number"),
        ("idle = 3", "must be a table"),
        ("seed = 3", "names no scenario"),
        ("[idle", "cannot be read as TOML"),
    ],
)
def test_what_a_file_cannot_say_is_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(MigkitError) as caught:
        loaded(tmp_path, text)
    assert says in str(caught.value)
    assert "set.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MigkitError, match=r"set\.toml: no such file"):
        campaign.load(tmp_path / "set.toml", SCENARIOS)


def test_a_campaign_goes_on_where_it_was_left(tmp_path: Path) -> None:
    entries = loaded(tmp_path, GOOD)
    first = FakeRunner(tmp_path)
    results = lane.make(campaign.missing(entries, tmp_path), [first])
    assert next(results).line == "post-copy: completed"
    results.close()
    assert first.stopped.is_set()
    there = set(first.made)
    second = FakeRunner(tmp_path)
    assert {r.entry.name for r in lane.make(campaign.missing(entries, tmp_path), [second])} == set(second.made)
    assert there.isdisjoint(second.made)
    assert there | set(second.made) == {"post-copy", "idle", "idle-2"}
    assert campaign.missing(entries, tmp_path) == []


def test_half_a_pair_is_made_again(tmp_path: Path) -> None:
    entries = loaded(tmp_path, "[pair-large]")
    (tmp_path / "pair-large.parquet").touch()
    assert campaign.missing(entries, tmp_path) == entries


def test_two_runners_share_the_work(tmp_path: Path) -> None:
    both_busy = threading.Barrier(2, timeout=30)

    def meet(entry: Entry) -> None:
        if entry.repeat < 3:
            both_busy.wait()

    runners = [FakeRunner(tmp_path, meet), FakeRunner(tmp_path, meet)]
    entries = loaded(tmp_path, "[idle]\nrepeats = 3")
    assert len(list(lane.make(entries, runners))) == 3
    assert all(runner.made for runner in runners)


def test_one_that_fails_does_not_end_the_others(tmp_path: Path) -> None:
    def fail(entry: Entry) -> None:
        if entry.name == "idle":
            raise MigkitError("the guest does not start")

    results = list(lane.make(loaded(tmp_path, GOOD), [FakeRunner(tmp_path, fail)]))
    assert [(r.entry.name, r.failed) for r in results] == [("post-copy", False), ("idle", True), ("idle-2", False)]
    assert results[1].line == "the guest does not start"


def test_an_unexpected_error_is_not_swallowed(tmp_path: Path) -> None:
    def crash(entry: Entry) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(lane.make(loaded(tmp_path, GOOD), [FakeRunner(tmp_path, crash)]))


def test_a_lane_keeps_the_traces_under_the_repeats_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import sys; open(sys.argv[1] + '/idle.parquet', 'w').close(); print('idle: completed -> there')"
    one = lane.Lane(tmp_path / "lab", tmp_path, campaign="set")
    monkeypatch.setattr(one, "_words", lambda entry, output: [sys.executable, "-c", script, str(output)])
    second = loaded(tmp_path, GOOD)[2]
    assert one.make(second) == "idle-2: completed"
    assert (tmp_path / "idle-2.parquet").exists()
    assert not list(tmp_path.glob(".making-*"))


def test_a_guest_that_is_corrupted_each_time_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import sys; open(sys.argv[1] + '/idle-corrupted.parquet', 'w').close()"
    one = lane.Lane(tmp_path / "lab", tmp_path, campaign="set")
    monkeypatch.setattr(one, "_words", lambda entry, output: [sys.executable, "-c", script, str(output)])
    with pytest.raises(MigkitError, match="idle-2 left no sound trace"):
        one.make(loaded(tmp_path, GOOD)[2])
    assert (tmp_path / "idle-corrupted-2.parquet").exists()


def test_a_lane_passes_on_why_a_recording_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = lane.Lane(tmp_path / "lab", tmp_path, campaign="set")
    script = "import sys; sys.exit('migkit: lab: no kernel')"
    monkeypatch.setattr(one, "_words", lambda entry, output: [sys.executable, "-c", script])
    with pytest.raises(MigkitError, match="lab: no kernel"):
        one.make(loaded(tmp_path, GOOD)[0])


def test_a_stopped_lane_ends_its_recording_and_begins_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = lane.Lane(tmp_path / "lab", tmp_path, campaign="set")
    ready = tmp_path / "ready"
    script = f"import pathlib, time; pathlib.Path({str(ready)!r}).touch(); time.sleep(600)"
    monkeypatch.setattr(one, "_words", lambda entry, output: [sys.executable, "-c", script])
    entry, failed = loaded(tmp_path, GOOD)[0], list[str]()

    def run() -> None:
        with pytest.raises(MigkitError) as caught:
            one.make(entry)
        failed.append(str(caught.value))

    thread = threading.Thread(target=run)
    thread.start()
    assert hosts.wait_until(ready.exists, 60)
    one.stop()
    thread.join(60)
    assert failed
    with pytest.raises(MigkitError, match="was stopped"):
        one.make(entry)


def test_nothing_to_do_needs_no_lab(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("libvirt")
    (tmp_path / "set.toml").write_text("[idle]")
    (tmp_path / "idle.parquet").touch()
    assert main(["lab", "campaign", str(tmp_path / "set.toml"), "-o", str(tmp_path)]) == 0
    assert capsys.readouterr().err == "1 migrations, 1 there already, 0 to make\n"


@pytest.mark.parametrize("option", ["--jobs", "--repeats"])
def test_none_at_a_time_is_a_usage_error(tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "campaign", "-o", str(tmp_path), option, "0"]) == 2
    assert f"{option} 0: must be at least 1" in capsys.readouterr().err


def test_a_note_is_a_key_and_a_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "record", "idle", "-o", str(tmp_path), "--note", "campaign"]) == 2
    assert "--note campaign: must be KEY=VALUE" in capsys.readouterr().err


def test_what_a_killed_campaign_had_begun_is_cleared_away(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    for pid in (ended.pid, os.getpid()):
        (tmp_path / f".making-{pid}-x").mkdir()
    lane.clear(tmp_path)
    assert os.listdir(tmp_path) == [f".making-{os.getpid()}-x"]


class Witness:
    """Remembers what a lab is made of while it is up, to say later what of it is left, whatever the lab itself says."""

    def __init__(self, *folders: Path) -> None:
        self._folders = [str(folder) for folder in folders]
        labs = [hosts.find_lab(folder) for folder in folders]
        self._spaces = {host.net_ns for lab in labs if lab for host in lab.hosts}
        self._pids = {pid for lab in labs if lab for host in lab.hosts for pid in host.processes()}
        assert len(self._spaces) == 2 * len(folders)
        assert len(self._pids) > 2 * len(folders)

    def left(self) -> list[str]:
        """Processes, namespaces, mounts, links, sockets and folders."""
        found = [f"folder {folder}" for folder in self._folders if Path(folder).exists()]
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if int(entry.name) != os.getpid():
                    told = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
                    found += [f"process {entry.name} {told}" for folder in self._folders if folder in told]
                found += [f"namespace of process {entry.name}"] if self._space(entry) in self._spaces else []
                mounts = (entry / "mountinfo").read_text()
                found += [f"mount of process {entry.name}" for folder in self._folders if folder in mounts]
        sockets = Path("/proc/net/unix").read_text()
        found += [f"socket below {folder}" for folder in self._folders if folder in sockets]
        return found + [f"link {name}" for _, name in socket.if_nameindex() if name == hosts.LINK]

    @staticmethod
    def _space(entry: Path) -> int:
        return (entry / "ns" / "net").stat().st_ino


def begun(file: Path, output: Path, base: Path, jobs: int) -> subprocess.Popen[str]:
    """A campaign whose guests all migrate by now."""
    words = ["lab", "campaign", str(file), "-o", str(output), "--dir", str(base), "--jobs", str(jobs)]
    command = [sys.executable, "-m", "migkit", *words]
    # Pipes that nobody reads would block it; a killed campaign's recordings keep them open.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if not hosts.wait_until(lambda: all(_migrates(folder) for folder in lanes_of(base, jobs)), 150):
        process.send_signal(signal.SIGTERM)
        pytest.fail(f"no migration began: {process.communicate(timeout=200)[1]}")
    return process


def lanes_of(base: Path, jobs: int) -> list[Path]:
    return [base.with_name(f"{base.name}-{number}") for number in range(1, jobs + 1)]


@pytest.fixture
def base() -> Iterator[Path]:
    """Where a campaign's labs are; they are taken down after a test that failed."""
    with tempfile.TemporaryDirectory(prefix="mklab", dir="/var/tmp") as temporary:
        path = Path(temporary) / "lab"
        yield path
        for folder in lanes_of(path, 2):
            hosts.down(folder)


@pytest.mark.lab
def test_an_interrupted_campaign_leaves_nothing_behind_and_goes_on(lab_ready: None, base: Path, tmp_path: Path) -> None:
    file, output = tmp_path / "set.toml", tmp_path / "out"
    file.write_text("[idle]\n[nonconverging-aborted]\n[converge-slow]\n")
    with begun(file, output, base, 2) as process:
        witness = Witness(*lanes_of(base, 2))
        assert witness.left()
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=200)[1]
    assert process.returncode == 128 + signal.SIGINT
    assert said.splitlines()[-1] == "migkit: stopped"
    assert witness.left() == []
    assert list(output.iterdir()) == []
    for name in ("nonconverging-aborted", "converge-slow"):
        (output / f"{name}.parquet").touch()
    assert main(["lab", "campaign", str(file), "-o", str(output), "--dir", str(base)]) == 0
    assert sorted(os.listdir(output)) == ["converge-slow.parquet", "idle.parquet", "nonconverging-aborted.parquet"]
    assert witness.left() == []


@pytest.mark.lab
def test_after_a_killed_campaign_down_leaves_nothing_behind_and_the_next_goes_on(
    lab_ready: None, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, output = tmp_path / "set.toml", tmp_path / "out"
    file.write_text("[nonconverging-aborted]\n[idle]\n")
    words = ["lab", "campaign", str(file), "-o", str(output), "--dir", str(base), "--jobs", "1"]
    (folder,) = lanes_of(base, 1)
    with begun(file, output, base, 1) as process:
        witness = Witness(folder)
        process.kill()
        process.wait(20)
    assert main(words) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"migkit lab down --dir {folder} takes it down")
    assert main(["lab", "down", "--dir", str(base)]) == 0
    assert f"{folder} is up as well" in capsys.readouterr().err
    assert main(["lab", "down", "--dir", str(folder)]) == 0
    assert hosts.wait_until(lambda: witness.left() == [], 20), witness.left()
    (output / "nonconverging-aborted.parquet").touch()
    assert main(words) == 0
    assert sorted(os.listdir(output)) == ["idle.parquet", "nonconverging-aborted.parquet"]
    assert witness.left() == []


def _migrates(folder: Path) -> bool:
    lab = hosts.find_lab(folder)
    if lab is None:
        return False
    return any(lab.b.qemu(name) is not None for name in ("converge-slow", "nonconverging-aborted", "idle"))

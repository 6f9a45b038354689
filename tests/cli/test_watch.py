"""`migkit watch` as a user and a service manager meet it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import migkit as mk
from benchmarks.kills import wait_for_rows
from migkit.cli import main

TWO = "fake:///fast?domains=2&speed=4"


@contextlib.contextmanager
def watcher(output: Path, *words: str, uri: str = TWO) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "migkit", "watch", "-c", uri, "-o", str(output), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == f"migkit: watching {uri}\n"
        yield process
        process.kill()


def ended(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> tuple[int, str, str]:
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_a_migration_is_one_line_with_its_end_and_its_file(tmp_path):
    with watcher(tmp_path, "--interval", "25") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        assert ended(process) == (0, "", "migkit: stopped\n")
    for line in lines:
        name, _, rest = line.partition(": ")
        (path,) = tmp_path.glob(f"{name}-*.parquet")
        assert rest.startswith("completed, ")
        assert ", duration 618 ms, downtime 30 ms, 20" in rest
        assert rest.endswith(f"Z, {path}\n")
        assert mk.load(path).meta.domain.name == name


def test_a_program_reads_json_with_what_a_rule_would_have_done(tmp_path):
    words = [
        "--json",
        "--shadow",
        "kubevirt-1.9-stall",
        "--shadow",
        "tight=kubevirt-1.8",
        "--set",
        "progress_timeout=7",
    ]
    with watcher(tmp_path, *words, uri="fake:///fast") as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert ended(process)[0] == 0
    assert (told["domain"], told["outcome"], told["recovered"]) == ("fake-1", "completed", False)
    assert told["began"] <= told["ended"]
    assert [(one["label"], one["options"]["progress_timeout"]) for one in told["shadow"]] == [
        ("kubevirt-1.9-stall", 7), ("tight", 7),
    ]  # fmt: skip
    assert mk.load(told["path"]).meta.notes["shadow"] == told["shadow"]


def test_what_looked_on_is_shown_by_info_and_replay(capsys, tmp_path):
    shadow = ["--shadow", "tight=kubevirt-1.8,completion_timeout_per_gib=2"]
    with watcher(tmp_path, *shadow, uri="fake:///nonconverging") as process:
        wait_for_rows(process, *journals(tmp_path))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(4)
        line = ended(process)[1]
    assert "; tight would abort at " in line
    assert main(["info", str(tmp_path)]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.endswith("rules that looked on")
    assert "tight would abort at " in row
    assert main(["replay", str(tmp_path)]) == 0
    kept = capsys.readouterr().out.splitlines()
    assert kept[0].endswith("tight = kubevirt-1.8 looking on; completion deadline 2 s (1 GB)")
    assert main(["replay", str(tmp_path), "--policy", "kubevirt-1.8", "--set", "completion_timeout_per_gib=2"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == kept[1:]
    assert main(["replay", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["label"] == "tight"


def journals(folder: Path, count: int = 1) -> list[Path]:
    """Waits for so many recordings."""
    end = time.monotonic() + 60
    while len(found := list(folder.glob("*.journal"))) < count:
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


def test_a_trace_without_shadows_still_needs_a_policy(capsys):
    assert main(["replay", str(Path(__file__).parents[2] / "data" / "traces" / "stall_link.parquet")]) == 2
    assert "replay needs --policy" in capsys.readouterr().err


def test_what_a_killed_watcher_left_is_recovered_by_the_next(tmp_path):
    with watcher(tmp_path, uri="fake:///nonconverging?domains=2") as process:
        for journal in journals(tmp_path, 2):
            wait_for_rows(process, journal)
        process.kill()
        process.wait()
    left = {path.name for path in tmp_path.glob("*.journal")}
    with watcher(tmp_path, uri="fake:///idle") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in left]
        assert ended(process)[0] == 0
    assert all(": interrupted, " in line and line.endswith("; begun by an earlier watcher\n") for line in lines)
    assert {f"{path.name}.journal" for path in tmp_path.glob("*.parquet")} == left


def test_ctrl_c_keeps_what_is_being_recorded(tmp_path):
    with watcher(tmp_path, uri="fake:///nonconverging") as process:
        wait_for_rows(process, *journals(tmp_path))
        code, out, err = ended(process, signal.SIGINT)
    assert (code, err) == (0, "migkit: stopped\n")
    assert out.startswith("fake-1: interrupted, ")


def test_a_reader_that_goes_away_ends_nothing(tmp_path):
    with watcher(tmp_path) as process:
        assert process.stdout is not None
        process.stdout.close()
        while len(list(tmp_path.glob("*.parquet"))) < 2:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("-c fake:///convrge", 1, "did you mean 'converge'?"),
        ("-c fake:///idle --via x", 2, "a fake host has none"),
        ("-c fake:///idle --via-socket /x", 2, "give both"),
        ("-c fake:///idle --interval 0", 2, "must be more than 0"),
        ("-c fake:///idle --keep-bytes 2Gib", 2, "'2Gib' is not a quantity; write for example 4Gi"),
        ("-c fake:///idle --keep-bytes 0", 2, "must be more than 0"),
        ("-c fake:///idle --keep-days 0", 2, "must be more than 0"),
        ("-c fake:///idle --shadow kubevirt-1.88", 2, "did you mean 'kubevirt-1.8'?"),
        ("-c fake:///idle --shadow kubevirt-1.8 --set progres_timeout=3", 2, "did you mean 'progress_timeout'?"),
        ("-c fake:///idle --set progress_timeout=3", 2, "name one, e.g. --shadow kubevirt-1.9"),
        ("-c test+unix:///nowhere?socket=/nowhere", 1, "migkit: test+unix:///nowhere"),
        ("--print-unit", 2, "a service keeps its traces below /var/lib, e.g. -o /var/lib/migkit"),
    ],
)
def test_bad_input_is_one_line_on_stderr(words, code, said, capsys, tmp_path):
    if "test+" in words:
        pytest.importorskip("libvirt")
    assert main(["watch", "-o", str(tmp_path), *words.split()]) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def unit(capsys, *words: str) -> str:
    assert main(["watch", "--print-unit", "-o", "/var/lib/migkit", *words]) == 0
    return capsys.readouterr().out


def test_the_unit_runs_the_very_command_it_was_asked_with(capsys):
    words = ["-c", "qemu:///system", "--keep-bytes", "2Gi", "--keep-days", "30", "--json", "--shadow",
             "a b=kubevirt-1.8", "--set", "progress_timeout=7", "--via", "ssh $HOST 100%"]  # fmt: skip
    printed = unit(capsys, *words)
    (line,) = [line for line in printed.splitlines() if line.startswith("ExecStart=")]
    assert line.endswith(
        "migkit watch --connect qemu:///system --output /var/lib/migkit --interval 100 --keep-bytes 2Gi --via "
        '"ssh $$HOST 100%%" --keep-days 30 --shadow "a b=kubevirt-1.8" --set progress_timeout=7 --json'
    )
    assert "StateDirectory=migkit\n" in printed


def test_a_folder_of_a_strange_name_is_one_folder_for_the_unit(capsys):
    printed = unit(capsys, "-o", "/var/lib/mig kit/100%$x")
    assert 'StateDirectory="mig kit/100%%$x"\n' in printed
    assert ' --output "/var/lib/mig kit/100%%$$x" ' in printed


def test_only_a_watcher_of_another_machine_has_the_network(capsys):
    assert "PrivateNetwork=yes\n" in unit(capsys, "-c", "qemu:///system")
    assert "RestrictAddressFamilies=AF_UNIX\n" in unit(capsys, "-c", "qemu:///system")
    assert "PrivateNetwork=no\n" in unit(capsys, "-c", "qemu+ssh://rack7/system")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_finds_nothing_wrong_with_the_unit(capsys, tmp_path):
    path = tmp_path / "migkit-watch.service"
    path.write_text(unit(capsys, "--shadow", "x y=kubevirt-1.9"))
    (tmp_path / "migkit").symlink_to(shutil.which("true"))
    environment = os.environ | {"SYSTEMD_LOG_LEVEL": "warning"}
    words = ["systemd-analyze", "verify", "--man=no", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, timeout=60)
    ours = [line for line in done.stderr.splitlines() if "migkit-watch" in line]
    assert (done.returncode, ours) == (0, [])


def test_watching_loads_nothing_heavy_into_the_watcher(tmp_path):
    code = (
        "import os, signal, sys, threading\n"
        "from migkit.capture import watch\n"
        "from migkit.cli import main\n"
        "real = watch.Watcher._finished\n"
        "def finished(self, *a):\n"
        "    real(self, *a)\n"
        "    self.stop()\n"
        "watch.Watcher._finished = finished\n"
        f"main(['watch', '-c', 'fake:///fast?speed=4', '-o', r'{tmp_path}', '--shadow', 'kubevirt-1.9'])\n"
        "heavy = {'numpy', 'pandas', 'pyarrow', 'numba', 'matplotlib', 'libvirt'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*.parquet"))) == 1

"""The lab's folder and state, and what the verb says when there can be no lab."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest

from migkit.cli import main
from migkit.errors import MigkitError
from migkit.lab import hosts


@pytest.fixture
def as_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)


def test_no_folder_is_no_lab(tmp_path: Path) -> None:
    assert hosts.find_lab(tmp_path / "none") is None
    assert hosts.leftovers(tmp_path / "none") == []
    hosts.down(tmp_path / "none")


def test_a_lab_of_an_earlier_boot_is_no_lab(tmp_path: Path) -> None:
    state = {"boot_id": "earlier", "accelerator": "tcg", "hosts": []}
    (tmp_path / "state.json").write_text(json.dumps(state))
    assert hosts.find_lab(tmp_path) is None


def test_a_process_that_took_over_a_recorded_number_is_not_touched(tmp_path: Path) -> None:
    # The holder's number is this test's own process, whose network namespace is not the recorded one.
    entry = {"name": "a", "address": "10.211.0.1", "holder": 1, "net_ns": 1}
    state = {"boot_id": hosts._boot_id(), "accelerator": "tcg", "hosts": [entry, entry | {"name": "b"}]}
    (tmp_path / "state.json").write_text(json.dumps(state))
    assert hosts.find_lab(tmp_path) is None
    assert hosts.leftovers(tmp_path) == []


def test_a_socket_that_is_still_bound_is_told(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="mklab", dir="/var/tmp"))
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(folder / "serial"))
            assert hosts.leftovers(folder) == [f"socket {folder}/serial"]
        assert hosts.leftovers(folder) == []
    finally:
        shutil.rmtree(folder)


def test_who_still_migrates_in_a_lab_is_told(tmp_path: Path) -> None:
    host = hosts.Host(name="a", folder=tmp_path / "a", address="", holder=0, net_ns=0)
    lab = hosts.Lab(folder=tmp_path, a=host, b=host, accelerator="tcg")
    with lab.busy():
        assert hosts.leftovers(tmp_path)[0].startswith(f"process {os.getpid()} ")
        with pytest.raises(MigkitError, match="another migration is running"), lab.busy():
            pass
        assert hosts.leftovers(tmp_path)[0].startswith(f"process {os.getpid()} ")
    assert hosts.leftovers(tmp_path) == []


def test_a_damaged_state_is_told(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(MigkitError, match=r"state\.json: damaged"):
        hosts.find_lab(tmp_path)


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(MigkitError, match="holds something else"):
        hosts.host_files.prepare(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_a_path_too_long_for_sockets_is_refused() -> None:
    with pytest.raises(MigkitError, match="too long for unix sockets"):
        hosts.host_files.prepare(Path("/var/tmp") / ("x" * 80))


def test_the_folder_follows_the_runtime_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert hosts.default_folder() == Path("/run/user/7/migkit-lab")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert hosts.default_folder() == Path("/var/tmp/migkit-lab")


def test_without_root_one_line_says_so(as_user: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "up", "--dir", str(tmp_path / "lab")]) == 1
    assert capsys.readouterr().err == "migkit: the lab makes namespaces and runs libvirtd: run it as root\n"
    assert not (tmp_path / "lab").exists()


def test_the_list_has_a_line_a_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("post-copy ") and " 13 s " in line for line in lines)


def test_an_unknown_scenario_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "record", "hot-cool", "-o", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "migkit: unknown scenario 'hot-cool': did you mean 'hot-cold'?\n"


def test_an_interval_of_nothing_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "record", "idle", "--interval", "0", "-o", str(tmp_path)]) == 2
    assert "--interval 0" in capsys.readouterr().err

"""`migkit pack` and --where: what a person reads."""

from __future__ import annotations

import shutil

import pytest

import migkit as mk
from migkit.cli import info, main
from migkit.dataset import packing
from tests.conftest import TRACES
from tests.dataset.test_dataset import damage


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("idle", "bursty", "post-copy", "link-down"):
        shutil.copy(TRACES / f"{name}.parquet", tmp_path / "in")
    return tmp_path / "in"


def test_packing_says_what_it_came_to(folder, tmp_path, capsys):
    assert main(["pack", str(folder), "-o", str(tmp_path / "p")]) == 0
    packed = mk.open_dataset(tmp_path / "p")
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{tmp_path / 'p'}: 4 traces, {packed.catalogue['rows'].sum()} rows, ")
    assert captured.out.endswith(" bytes a row\n")
    assert captured.err == ""


def test_a_packed_folder_reads_as_the_folder_did(folder, tmp_path, capsys):
    assert main(["pack", str(folder), "-o", str(tmp_path / "p")]) == 0
    capsys.readouterr()
    shown = []
    for place in (folder, tmp_path / "p"):
        for words in (["info"], ["info", "--json"], ["info", "--check"], ["info", "--card"],
                      ["replay", "--policy", "kubevirt-1.8"]):  # fmt: skip
            assert main([*words, str(place)]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]


def test_conditions_choose_what_is_packed(folder, tmp_path, capsys):
    assert main(["pack", str(folder), "-o", str(tmp_path / "p"), "--where", "name == *o*, outcome == completed"]) == 0
    assert mk.open_dataset(tmp_path / "p").names == ["link-down", "post-copy"]
    assert ": 2 traces" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("outcome == complete", "none of 4 traces fulfils 'outcome == complete' (outcome is completed)"),
        ("name idle, memory >= 4 GiB", "(memory_bytes is 256 MiB to 320 MiB)"),
        ("started < 2020-01-01", "(started is 20"),
        ("vcpus > 1", "(vcpus is 1)"),
        ("fault_from_s >= 1 h", "(fault_from_s is "),
    ],
)
def test_conditions_that_nothing_fulfils_are_said(folder, where, said, capsys):
    assert main(["info", str(folder), "--where", where]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert captured.err.count("\n") == 1


def test_nothing_to_pack_is_a_failure_said_once(folder, tmp_path, capsys):
    assert main(["pack", str(folder), "-o", str(tmp_path / "p"), "--where", "name nobody"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--where", "memry > 3"], 2, "migkit: unknown column 'memry': did you mean 'memory_bytes'?"),
        (["-o", "{in}/p"], 1, "where each trace would be found twice; choose another place"),
        (["-o", "{in}"], 1, "is there and no packed folder"),
        (["-o", "s3://b/x"], 1, "packing writes to a folder of this machine"),
    ],
)
def test_bad_words_are_one_line(folder, tmp_path, words, code, said, capsys):
    words = [word.replace("{in}", str(folder)) for word in words]
    assert main(["pack", str(folder), "-o", str(tmp_path / "p"), *words]) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert (captured.err.count("\n"), captured.out) == (1, "")


def test_bad_traces_are_left_out_only_when_asked(folder, tmp_path, capsys):
    damage(folder / "idle.parquet")
    (folder / "none.parquet").write_bytes(b"nothing")
    words = ["pack", str(folder), "-o", str(tmp_path / "p")]
    assert main(words) == 1
    assert "none.parquet: not a trace" in capsys.readouterr().err
    assert main([*words, "--skip-bad"]) == 0
    captured = capsys.readouterr()
    assert captured.out.endswith("; 2 left out\n")
    assert "none.parquet: not a trace" in captured.err
    assert "idle.parquet: the file is damaged" in captured.err
    assert captured.err.count("\n") == 2


def test_traces_of_one_damaged_file_are_one_line(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(packing, "FILE_TRACES", 3)
    packed = mk.open_dataset(folder).pack(tmp_path / "p")
    damage(packed / "part-00000.parquet")
    assert main(["info", str(packed)]) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1].startswith("post-copy")
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("(3 traces)\n")


def test_many_traces_are_listed_from_the_catalogue(folder, capsys, monkeypatch):
    """No rows are read: the one with damaged rows is listed too."""
    monkeypatch.setattr(info, "_READ_AT_MOST", 3)
    damage(folder / "idle.parquet")
    assert main(["info", str(folder)]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0].split()[:4] == ["trace", "outcome", "provenance", "duration"]
    assert len(captured.out.splitlines()) == 5
    assert "bandwidth and dirty rate are left out for more than 3 traces" in captured.err

"""`migkit import` as it is typed: what it writes, what it says, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import migkit as mk
from migkit.cli import main

LOGS = Path(__file__).parents[1] / "capture" / "logs"
SMALL = str(LOGS / "kubevirt" / "mbps-64-times-too-small.log")
STALL = str(LOGS / "kubevirt" / "stall-gate-switchover.log")


def test_a_trace_is_named_after_its_guest_and_its_start(tmp_path, capsys):
    assert main(["import", SMALL, "-o", str(tmp_path)]) == 0
    [path] = tmp_path.glob("*.parquet")
    assert path.name == "prod-web1-20240506T101110Z.parquet"
    assert mk.load(path).meta.provenance == "imported"
    said = capsys.readouterr().out
    assert said.startswith(f"{path}: completed; 25 samples every 4 s, whole MiB in ")
    assert "rates are 64 times too small" in said
    assert "\n  answers exactly kubevirt-1.8\n  cannot answer kubevirt-1.9-stall: stall detection works by iter" in said


def test_a_folder_of_everything_becomes_a_trace_a_migration(tmp_path, capsys):
    assert main(["import", *(str(LOGS / part) for part in ("kubevirt", "prometheus", "raw")), "-o", str(tmp_path)]) == 0
    traces = mk.open_dataset(tmp_path)
    assert len(traces) == 16
    assert {trace.meta.provenance for trace in traces} == {"imported"}
    told = capsys.readouterr().err
    assert "files of no known format were passed over" in told
    assert "line of a log that is cut short or damaged: 1" in told
    assert main(["info", str(tmp_path)]) == 0


def test_two_migrations_of_one_name_are_both_kept(tmp_path):
    again = tmp_path / "again.log"
    again.write_text(Path(SMALL).read_text().replace("9f0f7a52", "00000000").replace("5c", "6d"))
    assert main(["import", SMALL, str(again), "-o", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 2


def test_what_exists_is_not_overwritten_unless_forced(tmp_path, capsys):
    assert main(["import", SMALL, "-o", str(tmp_path)]) == 0
    assert main(["import", SMALL, "-o", str(tmp_path)]) == 1
    assert "--force" in capsys.readouterr().err
    assert main(["import", SMALL, "-o", str(tmp_path), "--force"]) == 0


def test_json_has_a_line_a_trace(tmp_path, capsys):
    assert main(["import", STALL, "-o", str(tmp_path), "--json"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert told["outcome"] == "completed"
    assert told["answers"]["kubevirt-1.9-stall"] == "approximate"
    assert told["meta"]["cadence"]["resolution_bytes"] == 1024 * 1024


def test_the_version_and_the_guests_object_are_used(tmp_path):
    status = str(LOGS / "kubevirt" / "status-of-a-public-issue.yaml")
    assert main(["import", SMALL, "-o", str(tmp_path), "--kubevirt-version", "1.1", "--vmi", status]) == 0
    [trace] = mk.open_dataset(tmp_path)
    assert trace.meta.domain.memory_bytes == 8 * 2**30
    assert "by this version" in trace.meta.notes["said"][0]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere.log"], 1, "nowhere.log: no such file or folder"),
        ([SMALL, "--format", "nowa"], 2, "unknown format 'nowa'"),
        ([SMALL, "--kubevirt-version", "2"], 2, "unknown KubeVirt version '2'"),
        ([str(LOGS / "kubevirt" / "README.md")], 1, "no file is of a known format"),
        ([str(LOGS / "kubevirt" / "lines-of-public-issues.log")], 1, "tells of no migration with statistics"),
    ],
)
def test_what_cannot_be_imported_is_one_line(arguments, code, message, tmp_path, capsys):
    assert main(["import", *arguments, "-o", str(tmp_path)]) == code
    told = capsys.readouterr().err.splitlines()
    assert message in told[-1]
    assert told[-1].startswith("migkit: ")


def test_a_replay_of_an_imported_trace_says_what_it_is_worth(tmp_path, capsys):
    assert main(["import", STALL, SMALL, "-o", str(tmp_path)]) == 0
    events, plain = (str(next(tmp_path.glob(f"*T{hour}*"))) for hour in ("13", "10"))
    capsys.readouterr()
    assert main(["replay", events, "--policy", "kubevirt-1.9-stall"]) == 0
    assert "  approximate: bandwidth is smoothed over samples 4 s apart" in capsys.readouterr().out
    assert main(["replay", plain, "--policy", "kubevirt-1.9-stall"]) == 1
    assert "cannot answer for kubevirt-1.9-stall" in capsys.readouterr().err
    assert main(["replay", plain, "--policy", "kubevirt-1.9-stall", "--anyway"]) == 0
    assert "  a model, not an answer: stall detection works by iteration events" in capsys.readouterr().out


def test_a_comparison_counts_the_traces_that_answer_approximately(tmp_path, capsys):
    assert main(["import", STALL, SMALL, "-o", str(tmp_path)]) == 0
    capsys.readouterr()
    both = ["--policy", "kubevirt-1.8", "--policy", "kubevirt-1.9-stall"]
    assert main(["compare", str(tmp_path), *both]) == 1
    assert "--anyway" in capsys.readouterr().err
    assert main(["compare", str(tmp_path), *both, "--anyway"]) == 0
    said = capsys.readouterr().out
    assert "kubevirt-1.9-stall: 1 of 2 traces approximate: bandwidth is smoothed" in said
    assert "kubevirt-1.9-stall: 1 of 2 traces a model, not an answer: stall detection works by" in said


def test_a_logs_own_words_are_one_sane_line(tmp_path, capsys):
    log = tmp_path / "a.log"
    text = "boom \x1b[2J\x1b]0;title\x07 \u202e\ud800\nmore " + "x" * 5000
    failed = {"msg": "Live migration failed.", "reason": text, "timestamp": "2024-05-06T10:12:50.000000Z"}
    lines = [line for line in Path(SMALL).read_text().splitlines() if "succeeded" not in line]
    log.write_text("\n".join([*lines, json.dumps(json.loads(lines[0]) | failed)]) + "\n")
    assert main(["import", str(log), "-o", str(tmp_path / "out")]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert "failed (boom more xxx" in first
    assert first.isprintable()
    assert len(first) < 500
    [trace] = mk.open_dataset(tmp_path / "out")
    assert trace.meta.end.error_text.startswith(text.replace("\ud800", "")[:30])
    assert len(trace.meta.end.error_text) > 5000
    for verb in (["info"], ["explain"]):
        assert main([*verb, *map(str, (tmp_path / "out").iterdir())]) == 0
        said = capsys.readouterr().out
        assert "boom more xxx" in said
        assert all(line.isprintable() and len(line) < 500 for line in said.splitlines())


def test_a_place_with_control_characters_is_told_without_them(tmp_path, capsys):
    (tmp_path / "a\x1b[31m\nb").write_text("nothing\n")
    (tmp_path / "c.log").write_bytes(Path(SMALL).read_bytes())
    assert main(["import", str(tmp_path), "-o", str(tmp_path / "out")]) == 0
    [line] = capsys.readouterr().err.splitlines()
    assert line == f"migkit: files of no known format were passed over: {tmp_path}/a b"

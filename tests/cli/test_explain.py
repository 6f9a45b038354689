"""`migkit explain`: what a person reads, and what a program reads."""

from __future__ import annotations

import json

import pytest

from migkit.cli import main
from tests.conftest import TRACES

STALL, PLATEAU, DEAD = (str(TRACES / f"{name}.parquet") for name in ("link-down", "noconverge_abort", "link-dead"))


@pytest.mark.parametrize("columns", [60, 80, 160])
def test_paragraph_table_and_times_fit_the_terminal(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["explain", STALL, PLATEAU]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    assert lines[0].startswith("link-down completed after 17 s.")
    assert any(line.startswith("stalled                   yes") for line in lines)
    assert any(line.startswith("time: prepare 0.4 s, first pass 14.4 s") for line in lines)


def test_json_holds_every_figure_unrounded(capsys):
    assert main(["explain", "--json", DEAD]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert found["limited_by"] == ["network", "destination"]
    assert (found["converges"], found["fault_until_s"]) == ("no", None)
    assert found["fault_from_s"] == found["answers"]["stalled"]["from_s"] == pytest.approx(4.183, abs=0.001)
    assert found["answers"]["failed"]["error_code"] == 1
    assert found["error_text"] == "internal error: client socket is closed"


def test_brief_is_a_line_a_trace(capsys):
    assert main(["explain", "--brief", STALL, DEAD]) == 0
    head, stall, dead = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "trace"
    assert "network or destination" in stall
    assert "from 4.2 s to 10.7 s" in stall
    assert "from 4.2 s on" in dead


def test_what_does_not_converge_is_judged_by_the_dirty_rate_seen(capsys):
    assert main(["explain", "--brief", PLATEAU]) == 0
    assert "not at this dirty rate" in capsys.readouterr().out


def test_where_no_time_was_taken_no_line_tells_of_it(capsys):
    assert main(["explain", str(TRACES / "block-volume-missing.parquet")]) == 0
    assert "time:" not in capsys.readouterr().out


@pytest.mark.parametrize("columns", [1, 7, 20])
def test_the_narrowest_terminal_gets_the_text_of_one_of_60_columns(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["explain", STALL]) == 0
    assert 50 < max(map(len, capsys.readouterr().out.splitlines())) <= 60


def test_a_bad_file_is_told_and_hides_no_good_one(capsys, tmp_path):
    bad = tmp_path / "bad.parquet"
    bad.write_text("nothing")
    assert main(["explain", "--brief", str(bad), STALL]) == 1
    told = capsys.readouterr()
    assert "link-down" in told.out
    assert told.err.startswith(f"migkit: {bad}: ")
    assert len(told.err.splitlines()) == 1


def test_help_says_what_it_answers(capsys):
    with pytest.raises(SystemExit):
        main(["explain", "--help"])
    assert "what held a migration up" in " ".join(capsys.readouterr().out.split())

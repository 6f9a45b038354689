"""`migkit sweep` and `migkit tune` as they are typed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pandas as pd
import pytest

import migkit as mk
from migkit.cli import main
from migkit.cli.sweep import parse_lists
from migkit.drivers.sweep import run
from migkit.errors import UsageError
from tests.made import migration

TRACES = str(Path(__file__).parents[2] / "data" / "traces")
STALL = ["--policy", "kubevirt-1.9-stall"]
VARY = ["--vary", "stall_margin=2,8", "--vary", "stall_progress_timeout=20:60:20"]


def test_a_sweep_prints_a_line_a_setting_with_counts_instead_of_ratios(capsys):
    assert main(["sweep", TRACES, *STALL, *VARY]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("91 traces x 6 settings of kubevirt-1.9-stall")
    assert "completed by themselves" in lines[0]
    table = [line for line in lines if " of 49" in line]
    assert len(table) == 6
    assert "." * 3 not in "".join(table)


def test_json_lines_and_a_table_in_a_file_hold_everything(tmp_path, capsys):
    out = tmp_path / "table.parquet"
    assert main(["sweep", TRACES, *STALL, *VARY, "--json", "-o", str(out)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 6
    assert {"setting", "stall_margin", "false_abort_ratio"} <= set(rows[0])
    assert len(pd.read_parquet(out)) == 6 * 91
    assert main(["sweep", TRACES, *STALL, *VARY, "-o", str(out)]) == 1
    assert "exists already" in capsys.readouterr().err


def test_tune_recommends_shows_the_price_and_writes_what_is_read_back(tmp_path, capsys):
    out = tmp_path / "policy.yaml"
    words = ["--objective", "minimise missed_ratio, wasted where false_abort_ratio <= 5%", "-o", str(out)]
    assert main(["tune", TRACES, *STALL, "--vary", "completion_timeout_per_gib=150,800", *VARY, *words]) == 0
    said = capsys.readouterr().out
    for part in ("Recommended: ", "HyperConverged", "VEP 248 text", "do nothing", "bootstrap", "Held out", "[800]"):
        assert part in said
    read = mk.read_configuration(out, "1.9").policy
    assert f"stall_progress_timeout={read.options['stall_progress_timeout']}" in said
    assert "# traces" in out.read_text()


def test_tune_draws_what_it_is_based_on(tmp_path, capsys):
    words = [*STALL, *VARY, "--objective", "minimise missed_ratio, wasted", "--pictures", str(tmp_path)]
    assert main(["tune", TRACES, *words]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"pareto.png", "fates.png", "sensitivity.png", "heatmap.png"}


@pytest.mark.parametrize(
    ("words", "says", "code"),
    [
        (["--vary", "stall_margn=2"], "did you mean 'stall_margin'", 2),
        (["--vary", "stall_margin"], "write OPTION=V,V,... or OPTION=FROM:TO:STEP", 2),
        (["--vary", "stall_margin=9:2"], "from the lesser to the greater", 2),
        (["--vary", "stall_margin=101"], "must be 0 to 100", 2),
        (["--objective", "minimise sped"], "unknown figure 'sped'", 2),
        (["--vary", "stall_margin=4", "--objective", "minimise regret where missed_ratio < 0"], "no setting keeps", 1),
        (["--vary", "stall_margin=4", "--kind", "HyperConverged", "--objective", "minimise missed_ratio"],
         "a HyperConverged has no experimental.stallDetector; write it as MigrationPolicy", 2),
        (["--where", "memory >= 900 GiB", "--vary", "stall_margin=4"], "no trace can be swept", 1),
        (["--policy", "kubevirt-1.8"], "give one --policy", 2),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(words, says, code, capsys):
    assert main(["tune", TRACES, *STALL, *words]) == code
    err = capsys.readouterr().err
    assert says in err
    assert len([line for line in err.splitlines() if line.startswith("migkit: ")]) >= 1
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "says", "code"),
    [
        (["--kind", "HyperConverged"], "a HyperConverged has no experimental.stallDetector", 2),
        (["--name", "No Name"], "Kubernetes wants lower-case letters", 2),
        (["-o", "nowhere/policy.yaml"], "its folder does not exist", 1),
        (["-o", "taken.yaml"], "taken.yaml: exists already", 1),
        (["--pictures", "taken.yaml"], "is no folder", 1),
        (["--pictures", "drawn"], "pareto.png: exists already", 1),
        (["--objective", "minimise sped"], "unknown figure 'sped'", 2),
        (["--vary", "stall_margin=101"], "must be 0 to 100", 2),
    ],
)  # fmt: skip
def test_what_could_not_be_written_is_told_before_the_work(words, says, code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("taken.yaml").touch()
    Path("drawn").mkdir()
    Path("drawn/pareto.png").touch()
    monkeypatch.setattr(run, "sweep_share", lambda *_: pytest.fail("it swept"))
    assert main(["tune", TRACES, *STALL, *VARY[2:], *words]) == code
    assert says in capsys.readouterr().err


def test_too_few_traces_are_refused_and_taken_only_anyway(tmp_path, capsys):
    migration([500, *[100] * 30], name="one", outcome="cancelled", action="abort").save(tmp_path / "one.parquet")
    words = ["tune", str(tmp_path), *STALL, "--vary", "stall_margin=2,4"]
    assert main(words) == 1
    assert "do not suffice to choose a setting: too few: 1 traces" in capsys.readouterr().err
    assert main([*words, "--anyway"]) == 0
    assert "Beware: too few" in capsys.readouterr().out


@pytest.mark.parametrize(("verb", "after", "says"), [
    ("sweep", 1, "migkit: stopped after "), ("sweep", 0, "migkit: stopped\n"), ("tune", 1, "migkit: stopped\n"),
])  # fmt: skip
def test_ctrl_c_shows_what_is_done_and_ends_with_130(verb, after, says, monkeypatch, capsys):
    whole, calls = run.sweep_share, []

    def pressed(job, partition):
        calls.append(partition)
        if len(calls) > after:
            raise KeyboardInterrupt
        return whole(job, partition)

    monkeypatch.setattr(run, "sweep_share", pressed)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert main([verb, TRACES, *STALL, *VARY]) == 128 + signal.SIGINT
    said = capsys.readouterr()
    assert says in said.err
    assert (" of " in said.out) == (verb == "sweep" and after > 0)


def test_lists_are_written_as_values_or_as_a_span():
    assert parse_lists(["a=1,2", "b=1:7:3", "c=0.4"]) == {"a": ["1", "2"], "b": [1, 4, 7], "c": ["0.4"]}
    with pytest.raises(UsageError, match="whole numbers"):
        parse_lists(["a=1:x"])

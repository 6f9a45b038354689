"""A scenario recorded again has the label that it had before, and the counters show what the label says."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from migkit.lab import campaign, hosts, scenario
from tests.conftest import TRACES
from tests.lab.labels import Label, held_up_by, labels, main, table

CAMPAIGN = Path(__file__).with_name("labels.toml")
# What the counters cannot tell: that a guest would write more were it not throttled, that a small hot set is what is
# left of a large rate, and anything of a migration that was acted upon in its first pass.
SILENT = {
    "auto-converge",
    "auto-converge-brutal",
    "hot-cold",
    "post-copy-early",
    "bandwidth-lowered",
    "bandwidth-raised",
}


@pytest.fixture(scope="module")
def kept() -> dict[str, Label]:
    return labels(TRACES)


def scenario_of(name: str) -> str:
    return re.sub(r"-\d+$", "", name)


def test_repeats_have_the_label_of_the_first(kept: dict[str, Label]) -> None:
    repeats = [name for name in kept if scenario_of(name) != name]
    assert len(repeats) >= 20
    assert {name: kept[name] for name in repeats} == {name: kept[scenario_of(name)] for name in repeats}


def test_the_counters_show_what_the_label_says(kept: dict[str, Label]) -> None:
    assert {scenario_of(name) for name, one in kept.items() if not one.agrees} == SILENT


def test_every_fault_shows(kept: dict[str, Label]) -> None:
    faulty = [one for one in kept.values() if "fault" in one.truth]
    assert len(faulty) >= 18
    assert all(one.fault_shows for one in faulty)


def test_another_cause_is_not_taken_for_the_labels(bundled) -> None:
    """The judge does not read the label: a trace with a wrong one is found out."""
    trace = bundled["link-down"]
    assert trace.meta.lab.truth["limited_by"] == "network"
    assert held_up_by(trace.replace_meta(lab=None)) == "network or destination"
    assert held_up_by(bundled["converge-fast"]) == "bandwidth"


def test_the_campaign_is_of_as_many_causes_as_there_are() -> None:
    entries = campaign.load(CAMPAIGN, scenario.load())
    truths = [entry.scenario.truth for entry in entries]
    limits = {truth.limited_by for truth in truths if truth}
    assert limits == {"bandwidth", "dirty rate", "downtime limit", "network", "destination"}
    assert sum(entry.scenario.seconds for entry in entries) < 180


def test_a_label_that_differs_is_told(kept: dict[str, Label]) -> None:
    found = table([{"a": kept["idle"], "b": kept["bursty"]}, {"a": kept["idle"], "b": kept["link-down"]}])
    assert list(found["alike"]) == ["2 of 2", "1 of 2"]


def test_a_trace_that_is_missing_in_one_folder_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, names in (("once", ("idle", "bursty")), ("twice", ("idle",))):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / f"{name}.parquet").symlink_to(TRACES / f"{name}.parquet")
    assert main([str(tmp_path / "once"), str(tmp_path / "once")]) == 0
    assert main([str(tmp_path / "once"), str(tmp_path / "twice")]) == 1
    assert "1 of 2" in capsys.readouterr().out


@pytest.mark.lab
def test_three_runs_from_scratch_have_the_same_labels(lab_ready: None, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="mklab", dir="/var/tmp") as temporary:
        base, folders = Path(temporary) / "lab", [tmp_path / name for name in ("once", "twice", "thrice")]
        for folder in folders:
            words = ["lab", "campaign", str(CAMPAIGN), "-o", str(folder), "--dir", str(base), "--jobs", "2"]
            made = subprocess.run([sys.executable, "-m", "migkit", *words], capture_output=True, text=True, check=False)
            assert made.returncode == 0, made.stdout + made.stderr
        assert [hosts.leftovers(base.with_name(f"lab-{n}")) for n in (1, 2)] == [[], []]
    runs = [labels(folder) for folder in folders]
    print(table(runs).to_string())
    assert set(runs[0]) == {entry.name for entry in campaign.load(CAMPAIGN, scenario.load())}
    assert runs[1] == runs[0]
    assert runs[2] == runs[0]
    assert all(one.agrees for one in runs[0].values())

"""`migkit info` and `migkit plot`: what a person reads, and one line for what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from migkit.cli import main
from migkit.units import format_bytes, format_ms, format_s
from tests.conftest import TRACES

STALL = str(TRACES / "stall_link.parquet")


def test_info_prints_a_line_a_trace_in_human_units(capsys):
    assert main(["info", STALL, str(TRACES / "block_raw.parquet")]) == 0
    head, stall, block = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["trace", "outcome", "provenance"]
    assert stall.split()[:3] == ["stall_link", "completed", "imported"]
    assert "384 MiB" in stall
    assert "50 ms" in stall
    assert "13.3 s" in block
    assert max(map(len, (head, stall, block))) < 160


def test_info_json_has_everything_the_trace_knows(capsys):
    assert main(["info", STALL, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["trace"] == "stall_link"
    assert found["meta"]["end"]["completed"]["downtime"] == 50
    assert found["downtime_ms"] == 50


def test_one_bad_file_hides_no_good_one(capsys, tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    (tmp_path / "good.parquet").write_bytes((TRACES / "stall_link.parquet").read_bytes())
    assert main(["info", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1].split()[:2] == ["good", "completed"]
    assert "bad.parquet: not a trace, or cut short" in captured.err
    assert captured.err.count("\n") == 1


def test_info_explains_the_columns(capsys):
    assert main(["info", "--columns"]) == 0
    assert "`memory_dirty_rate_pages_per_s` | pages/s | gauge" in capsys.readouterr().out


def test_plot_writes_pictures_and_says_where(capsys, tmp_path):
    assert main(["plot", STALL, "-o", str(tmp_path)]) == 0
    path = tmp_path / "stall_link.png"
    assert capsys.readouterr().out == f"{path}\n"
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", ["downtime", "overview"])
def test_one_picture_of_many(kind, capsys, tmp_path):
    assert main(["plot", str(TRACES), "--kind", kind, "-o", str(tmp_path)]) == 0
    assert (tmp_path / f"{kind}.png").stat().st_size > 5000


def test_plot_refuses_to_overwrite(capsys, tmp_path):
    assert main(["plot", STALL, "-o", str(tmp_path)]) == 0
    assert main(["plot", STALL, "-o", str(tmp_path)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["plot", STALL, "-o", str(tmp_path), "--force"]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["info", "nowhere.parquet"], 1, "migkit: nowhere.parquet: no such file"),
        (["info", "pyproject.toml"], 1, "migkit: pyproject.toml: not a trace, or cut short"),
        (["info", "tests/policies"], 1, "migkit: tests/policies: holds no trace"),
        (["info"], 2, "needs a trace"),
        (["plot", STALL, "-o", "/proc/none"], 1, "cannot be written"),
    ],
)
def test_bad_input_is_one_line_on_stderr(arguments, code, said, capsys):
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_reader_that_leaves_early_is_no_error():
    run = subprocess.run(
        f"{sys.executable} -m migkit info --columns | head -1", shell=True, capture_output=True, text=True, check=True
    )
    assert run.stderr == ""


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from migkit.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'pandas', 'pyarrow', 'numba', 'matplotlib', 'libvirt'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr == ""
    assert run.returncode == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (format_bytes(0), "0 B"),
        (format_bytes(1023), "1.00 KiB"),
        (format_bytes(384 * 2**20), "384 MiB"),
        (format_bytes(1.5 * 2**30), "1.50 GiB"),
        (format_bytes(-2048), "-2 KiB"),
        (format_ms(999.6), "1000 ms"),
        (format_ms(89.6), "89.6 ms"),
        (format_s(119.96), "120 s"),
        (format_s(3600), "1 h 00 min"),
    ],
)
def test_units_read_well(text, expected):
    assert text == expected

"""What each fixture becomes, as a text to be read: `python -m tests.capture.logs.test_golden_imports` renews them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

import migkit as mk

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"
FIXTURES = sorted(
    path
    for folder in ("kubevirt", "prometheus", "virsh", "qmp", "nova", "vdsm")
    for path in (HERE / folder).iterdir()
    if path.suffix in (".log", ".json", ".txt") and path.name != "lines-of-public-issues.log"
)


def told(path: Path) -> str:
    """Every trace of a file: what it says of itself, its deeds, its first, middle and last rows."""
    return "\n\n".join(_told(trace) for trace in mk.read_log(path)) + "\n"


def _told(trace: mk.Trace) -> str:
    meta, rows = trace.meta, trace.samples
    lines = [
        f"{trace.name}: {meta.origin}",
        f"  guest {meta.domain.name or '?'}; {meta.end.outcome} ({meta.end.evidence})",
    ]
    lines += [f"  cadence {json.loads(meta.to_json())['cadence']}", f"  completed {meta.end.completed}"]
    lines += [f"  notes {key}: {value}" for key, value in sorted(meta.notes.items())]
    done = rows[rows["source"] == "action"]
    lines += [
        f"  at {row.mono_ns / 1e9:.3f} s {row.action} {row.argument} {row.succeeded}" for row in done.itertuples()
    ]
    for number in sorted({0, len(rows) // 2, len(rows) - 1}):
        row = rows.iloc[number]
        known = {name: value for name, value in row.items() if not pd.isna(value)}
        lines.append(f"  row {number} of {len(rows)}: " + ", ".join(f"{name}={value}" for name, value in known.items()))
    return "\n".join(lines)


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.name)
def test_every_fixture_becomes_what_it_became(path):
    assert told(path) == (GOLDEN / f"{path.name}.txt").read_text()


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for fixture in FIXTURES:
        (GOLDEN / f"{fixture.name}.txt").write_text(told(fixture))

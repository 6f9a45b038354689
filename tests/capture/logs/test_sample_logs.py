"""The sample logs are what their command makes of the recorded migrations, and tell of them."""

from __future__ import annotations

import gzip
from pathlib import Path

import migkit as mk
from tests.capture.logs import sample_logs


def texts(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in folder.iterdir():
        if path.suffix != ".md":
            data = path.read_bytes()
            found[path.name] = gzip.decompress(data) if path.suffix == ".gz" else data
    return found


def test_the_committed_logs_are_what_the_command_writes(tmp_path):
    sample_logs.main(tmp_path)
    assert texts(sample_logs.LOGS) == texts(tmp_path)


def test_each_log_tells_of_the_migration_that_it_was_made_of(bundled):
    traces = list(mk.import_logs(sample_logs.LOGS, version="1.9"))
    names = [name for guest in sorted(sample_logs.GUESTS) for name in sample_logs.GUESTS[guest]]
    assert len(traces) == len(names)
    outcomes = {(t.meta.domain.name.removeprefix("prod_"), t.meta.migration.started_wall_ns): t for t in traces}
    for (_, trace), name in zip(sorted(outcomes.items()), names, strict=True):
        recorded = bundled[name]
        assert trace.meta.end.outcome == recorded.meta.end.outcome
        assert (trace.meta.end.completed or {}).get("downtime") == (recorded.meta.end.completed or {}).get("downtime")

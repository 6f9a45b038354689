"""Many migrations at once, in short: benchmarks/watch.py has them at full length."""

from __future__ import annotations

from benchmarks.watch import Size, examined, watched


def test_of_a_dozen_migrations_at_once_no_iteration_is_lost(tmp_path):
    size = Size(domains=12, seconds=24, interval_ms=100 / 8, speed=8)
    watched(size, tmp_path)
    found = examined(size, tmp_path)
    assert found.outcomes == {"cancelled": 4, "failed": 4, "completed": 4}
    assert found.events > 12 * 5
    assert found.lost == 0

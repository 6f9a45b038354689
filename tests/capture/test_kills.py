"""A recorder that is killed at any moment leaves a journal with all it had."""

from __future__ import annotations

import pytest

from benchmarks.kills import kill_one


@pytest.mark.parametrize("seed", range(5))
def test_a_killed_recorder_loses_nothing_it_had(seed, tmp_path):
    kill = kill_one(tmp_path, seed)
    assert kill.error == ""
    assert kill.rows > 0
    assert kill.wrong == 0

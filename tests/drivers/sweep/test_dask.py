"""The same sweep on a real Dask cluster of this machine."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import migkit as mk

distributed = pytest.importorskip("dask.distributed", reason="needs: pip install 'migkit[dask]'")
TRACES = Path(__file__).parents[3] / "data" / "traces"


@pytest.mark.filterwarnings("ignore")
def test_a_dask_cluster_gives_the_identical_table():
    lists = {"stall_margin": [2, 8], "stall_progress_timeout": [10, 40]}
    policy = mk.policy("kubevirt-1.9-stall")
    here = mk.sweep(TRACES, policy, skip_bad=True, **lists)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        there = mk.sweep(TRACES, policy, skip_bad=True, executor=client.get_executor(pure=False), **lists)
    pd.testing.assert_frame_equal(there.table, here.table)
    pd.testing.assert_frame_equal(there.traces, here.traces)
    pd.testing.assert_frame_equal(there.left_out, here.left_out)

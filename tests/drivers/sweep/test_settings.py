"""From lists to settings."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import migkit as mk
from migkit.drivers.sweep.settings import as_arrays, expand, for_trace
from migkit.errors import UsageError

POLICY = mk.kubevirt("1.8", allow_post_copy=True)


def test_lists_are_combined_in_their_order():
    found = expand(POLICY, {"progress_timeout": [10, 20], "completion_timeout_per_gib": range(50, 151, 50)})
    assert found.table["progress_timeout"].tolist() == [10, 10, 10, 20, 20, 20]
    assert found.table["completion_timeout_per_gib"].tolist() == [50, 100, 150] * 2
    assert all(policy.options["allow_post_copy"] for policy in found.policies)


def test_keep_sees_every_option_and_drops_combinations():
    found = expand(POLICY, {"progress_timeout": [10, 20, 200]},
                   keep=lambda o: o["progress_timeout"] < o["completion_timeout_per_gib"])  # fmt: skip
    assert found.table["progress_timeout"].tolist() == [10, 20]


def test_a_draw_is_of_different_settings_and_the_same_for_the_same_seed():
    lists = {"progress_timeout": range(1, 1001), "completion_timeout_per_gib": range(1, 1001)}
    one, two = (expand(POLICY, lists, sample=50, seed=3).table for _ in range(2))
    pd.testing.assert_frame_equal(one, two)
    assert len(one.drop_duplicates()) == 50
    assert not one.equals(expand(POLICY, lists, sample=50, seed=4).table)


def test_settings_can_be_given_as_a_table():
    given = pd.DataFrame({"progress_timeout": [5, 7], "completion_timeout_per_gib": [20, np.nan]})
    found = expand(POLICY, {}, given=given)
    assert [p.options["progress_timeout"] for p in found.policies] == [5, 7]
    assert [p.options["completion_timeout_per_gib"] for p in found.policies] == [20, 150]


@pytest.mark.parametrize(
    ("lists", "more", "says"),
    [
        ({"progres_timeout": [1]}, {}, "did you mean 'progress_timeout'"),
        ({"progress_timeout": []}, {}, "the list of values is empty"),
        ({"progress_timeout": 10}, {}, "give a list of values"),
        ({"progress_timeout": [10, 10.0]}, {}, "stands in the list twice"),
        ({"progress_timeout": [-1]}, {}, "out of range"),
        ({"stall_margin": [1]}, {}, "it came with 1.9"),
        ({"progress_timeout": [1]}, {"keep": lambda o: False}, "keep= dropped them all"),
        ({"progress_timeout": [1, 2]}, {"sample": 0}, "must be at least 1"),
        ({"progress_timeout": [1]}, {"given": [{"progress_timeout": 1}]}, "not both"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_a_line(lists, more, says):
    with pytest.raises(UsageError, match=says):
        expand(POLICY, lists, **more)


def test_a_setting_outside_admission_is_refused():
    with pytest.raises(UsageError, match="must be 0 to 100"):
        expand(mk.policy("kubevirt-1.9-stall"), {"stall_margin": [4, 101]})


def test_arrays_for_a_guest_are_what_each_policy_computes():
    found = expand(
        mk.policy("kubevirt-1.9-stall"), {"ewma_alpha": ["0.4", "0.7"], "completion_timeout_per_gib": [1, 2**62]}
    )
    arrays = for_trace(as_arrays(found.policies), data_size_gb=7, has_vfio=True)
    for place, policy in enumerate(found.policies):
        assert tuple(column[place] for column in arrays) == tuple(policy.computed(data_size_gb=7, has_vfio=True))

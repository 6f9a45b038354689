"""The traces that come with the package."""

from __future__ import annotations

import pytest

import migkit as mk
from tests.conftest import TRACES


def test_a_few_small_samples_come_along():
    names = mk.sample_names()
    assert 1 <= len(names) <= 6
    assert {"post-copy", "converge-slow"} <= set(names)
    assert names == sorted(names)


@pytest.mark.parametrize("name", mk.sample_names())
def test_a_sample_is_a_recorded_migration_with_its_cause(name):
    trace = mk.sample(name)
    assert trace.name == name
    assert trace.meta.provenance == "recorded"
    assert trace.meta.lab is not None
    assert {"limited_by", "converges"} <= set(trace.meta.lab.truth)
    assert trace.active.sum() > 50


@pytest.mark.parametrize("name", mk.sample_names())
def test_a_sample_is_the_trace_of_the_set(name):
    own = TRACES.parents[1] / "migkit" / "sample_traces" / f"{name}.parquet"
    assert own.read_bytes() == (TRACES / f"{name}.parquet").read_bytes()


def test_an_unknown_sample_is_refused_with_the_nearest():
    with pytest.raises(mk.UsageError, match="did you mean 'post-copy'"):
        mk.sample("postcopy")


def test_the_samples_are_part_of_the_package():
    text = (TRACES.parents[1] / "pyproject.toml").read_text()
    assert '"sample_traces/*.parquet"' in text

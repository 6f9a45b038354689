"""Conditions as people write them."""

from __future__ import annotations

import pandas as pd
import pytest

from migkit.conditions import matching
from migkit.errors import UsageError

TABLE = pd.DataFrame(
    {
        "name": pd.array(["small", "long-one", "odd, and long", None], dtype="string"),
        "memory_bytes": pd.array([2**30, 4 * 2**30, 2**62 + 1, None], dtype="Int64"),
        "limit_bps": pd.array([32 * 2**20, 1e9, None, None], dtype="Float64"),
        "duration_s": pd.array([59.5, 60.0, 7200.0, None], dtype="Float64"),
        "lost_ratio": pd.array([0.05, 0.5, 1.0, None], dtype="Float64"),
        "post_copy": pd.array([True, False, None, None], dtype="boolean"),
        "started": pd.to_datetime(["2026-01-31", "2026-02-01T12:00", None, None], utc=True, format="ISO8601"),
    }
)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("memory >= 4 GiB", [1, 2]),
        ("memory_bytes >= 4294967296", [1, 2]),
        ("memory>=4Gi", [1, 2]),
        ("memory < 4.3 GB", [0, 1]),
        ("memory == 4611686018427387905", [2]),
        ("limit <= 32 MiB/s", [0]),
        ("duration >= 1 min", [1, 2]),
        ("duration == 2 h", [2]),
        ("lost <= 5 %", [0]),
        ("name == small", [0]),
        ("name = small", [0]),
        ("name small", [0]),
        ("name != small", [1, 2]),
        ("name == *long*", [1, 2]),
        ("name != *long*", [0]),
        ("name == '*long*'", []),
        ("name == 'odd, and long'", [2]),
        ("post_copy true", [0]),
        ("post_copy == no", [1]),
        ("post_copy != true", [1]),
        ("started >= 2026-02-01", [1]),
        ("started < 2026-02-01T12:00", [0]),
        ("memory == unknown", [3]),
        ("post_copy != unknown", [0, 1]),
        ("memory >= 1 GiB, duration < 1 min", [0]),
        ("memory >= 1 GiB and duration >= 1 min AND post_copy == unknown", [2]),
    ],
)
def test_a_condition_means_what_it_says(text, rows):
    assert [row for row, kept in enumerate(matching(TABLE, text)) if kept] == rows


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("memry > 1", "unknown column 'memry': did you mean 'memory_bytes'?"),
        ("memory >= many", "condition on memory_bytes: 'many' is not a number, or one with a unit (B, KiB, "),
        ("memory > 4 s", "condition on memory_bytes: '4 s' is not a number"),
        ("duration < 3 GiB", "'3 GiB' is not a number, or one with a unit (ms, s, min, h)"),
        ("memory => 4", "condition 'memory => 4': write COLUMN OPERATOR VALUE, e.g. memory >= 4 GiB"),
        ("memory", "condition 'memory': write COLUMN OPERATOR VALUE"),
        ("", "condition '': write"),
        ("memory > 1,, name a", "condition '': write"),
        ("name > a", "condition on name: > needs a column of numbers; use == or !="),
        ("memory > unknown", "a value is unknown (==) or is not (!=)"),
        ("post_copy maybe", "condition on post_copy: 'maybe' is neither true nor false"),
        ("started > soon", "condition on started: 'soon' is not a day or time"),
        ("memory > 1 or name a", "'or' is not known here, only ',' and 'and'"),
    ],
)
def test_what_is_no_condition_is_refused_in_one_line(text, said):
    with pytest.raises(UsageError) as caught:
        matching(TABLE, text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_table_has_no_rows_to_match():
    assert matching(TABLE[:0], "memory > 4 GiB, name == a*, post_copy true, started > 2026-01-01").tolist() == []

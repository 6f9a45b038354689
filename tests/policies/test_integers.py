"""Go's 64-bit arithmetic, held against Python's numbers without end."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from migkit.policies.integers import below, float_to_signed, float_to_unsigned, unsigned_to_float, wrap

bits = st.integers(-(2**63), 2**63 - 1)


@given(value=st.integers(-(2**70), 2**70))
@example(value=2**63)
@example(value=-(2**63) - 1)
def test_results_wrap(value):
    wrapped = wrap(value)
    assert -(2**63) <= wrapped < 2**63
    assert (wrapped - value) % 2**64 == 0


@given(a=bits, b=bits)
@example(a=-1, b=0)
@example(a=0, b=-1)
def test_numbers_compare_as_unsigned_ones(a, b):
    assert below(a, b) == (a % 2**64 < b % 2**64)


@given(value=bits)
@example(value=-1)
@example(value=-(2**63))
@example(value=-(2**63) + 1025)
@example(value=2**63 - 1)
def test_unsigned_numbers_become_the_nearest_float(value):
    assert unsigned_to_float(value) == float(value % 2**64)


@given(value=st.floats(0, 2.0**64, exclude_max=True))
@example(value=2.0**63)
@example(value=math.nextafter(2.0**63, 0))
@example(value=math.nextafter(2.0**64, 0))
@example(value=-3.7)
def test_floats_in_range_become_their_whole_part(value):
    found = float_to_unsigned(value)
    assert -(2**63) <= found < 2**63
    assert found % 2**64 == int(value) % 2**64


@pytest.mark.parametrize("value", [2.0**64, 2.0**65, math.inf, math.nan, -(2.0**63)])
def test_floats_out_of_range_become_2_63_as_on_amd64(value):
    assert float_to_unsigned(value) == -(2**63)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(-1.9, -1), (math.nextafter(2.0**63, 0), 2**63 - 1024), (2.0**63, -(2**63)), (math.nan, -(2**63)),
     (math.inf, -(2**63)), (-math.inf, -(2**63)), (-(2.0**63), -(2**63)), (-(2.0**64), -(2**63))],
)  # fmt: skip
def test_signed_conversions_end_at_the_lowest_number(value, expected):
    assert float_to_signed(value) == expected

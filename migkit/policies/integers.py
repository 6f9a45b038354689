"""Go's integers: 64 bits, wrapping, and its conversions on amd64. Unsigned numbers are kept by their bits.

Conversions above the range: the Go specification leaves them open; on amd64 they give 2^63 (unsigned) and -2^63.
"""

from __future__ import annotations

_LOWEST = -(2**63)
_HIGHEST = 2**63 - 1
_TWO_63 = 9223372036854775808.0
_TWO_64 = 18446744073709551616.0


def wrap(value: int) -> int:
    """Brings a result back into 64 bits. Compiled integers wrap by themselves: there it is the identity."""
    return (value + 2**63) % 2**64 - 2**63


def below(a: int, b: int) -> bool:
    """a < b as unsigned numbers."""
    return (a ^ _LOWEST) < (b ^ _LOWEST)


def unsigned_to_float(bits: int) -> float:
    """The nearest float of an unsigned number (halved with a sticky last bit above 2^63, so that it rounds once)."""
    if bits >= 0:
        return float(bits)
    return float(((bits >> 1) & _HIGHEST) | (bits & 1)) * 2.0


def float_to_unsigned(value: float) -> int:
    """uint64(value)."""
    if value != value or value >= _TWO_64 or value <= -_TWO_63:
        return _LOWEST
    if value >= _TWO_63:
        return int(value - _TWO_63) + _LOWEST
    return int(value)


def float_to_signed(value: float) -> int:
    """int64(value)."""
    if value != value or value >= _TWO_63 or value < -_TWO_63:
        return _LOWEST
    return int(value)

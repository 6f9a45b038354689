"""The data size behind KubeVirt's completion deadline: decimal gigabytes, rounded up.

Rule: kubevirt/kubevirt pkg/virt-launcher/virtwrap/live-migration-source.go, v0.59.0 to main. The option says GiB, the
unit is 10^9 bytes: a guest of 1Gi counts as 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import ROUND_UP, Decimal, localcontext

from migkit.errors import UsageError

_BINARY = {name: Decimal(1024) ** power for power, name in enumerate(("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"))}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]?|[eE][+-]?\d+)")


def parse_quantity(text: str | int) -> Decimal:
    """A Kubernetes quantity as an exact number. Raises UsageError when it is none.

    >>> parse_quantity("1Gi"), parse_quantity("1500m")
    (Decimal('1073741824'), Decimal('1.500'))
    """
    match = _QUANTITY.fullmatch(str(text).strip())
    if match is None:
        raise UsageError(f"{text!r} is not a quantity; write for example 4Gi, 512Mi or 2000000000")
    number, suffix = match.groups()
    try:
        with localcontext(prec=80):
            if suffix in _BINARY:
                return Decimal(number) * _BINARY[suffix]
            exponent = _DECIMAL[suffix] if suffix in _DECIMAL else int(suffix[1:])
            return Decimal(number).scaleb(exponent)
    except (ArithmeticError, ValueError):
        raise UsageError(f"{text!r} is not a quantity: its exponent is beyond all bounds") from None


def data_size_gb(
    *,
    memory: str | int | None,
    ephemeral_bytes: int = 0,
    migrated_bytes: Iterable[str | int] = (),
) -> int:
    """The whole decimal gigabytes that a monitor multiplies completion_timeout_per_gib with.

    Parameters: guest memory (the VMI's, else its request; a quantity or bytes; None counts as 0), ephemeral disks where
    the migration copies blocks, capacities of migrated volumes (from v1.3 on). Rounded away from zero.

    >>> data_size_gb(memory="1Gi"), data_size_gb(memory="1G")
    (2, 1)
    """
    with localcontext(prec=80):
        total = Decimal(0) if memory is None else rounded_up(parse_quantity(memory))
        total += ephemeral_bytes
        total += sum((rounded_up(parse_quantity(size)) for size in migrated_bytes), Decimal(0))
        return int((total / 10**9).to_integral_value(rounding=ROUND_UP))


def rounded_up(value: Decimal) -> Decimal:
    """A quantity in whole units, away from zero."""
    return value.to_integral_value(rounding=ROUND_UP)


def checked_size(data_size_gb: int) -> int:
    """A data size that somebody gave. Raises UsageError unless it is a whole number of GB, from 0 to a billion."""
    if isinstance(data_size_gb, bool) or not isinstance(data_size_gb, int) or not 0 <= data_size_gb <= 10**9:
        raise UsageError(f"data_size_gb {data_size_gb!r}: must be a whole number of GB, 0 or more")
    return data_size_gb

"""Conditions on the rows of a table, as a person writes them: "memory >= 4 GiB, outcome == completed".

Conditions are joined by commas or `and`. Each is COLUMN OPERATOR VALUE; the operators are == (or =), !=, <, <=, > and
>=. A column's unit may be left out of its name (memory for memory_bytes), and given with the value (4 GiB, 90 s, 5 %);
a bare number is in the column's own unit. Text may hold * and ? (name == long-*), and `unknown` stands for a value
that is not there; such a value fulfils no other condition. `outcome completed` is short for `outcome == completed`.
"""

from __future__ import annotations

import fnmatch
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from migkit.errors import UsageError, unknown
from migkit.units import GIB, KIB, MIB

if TYPE_CHECKING:
    import pandas as pd

_BYTES: Final = {
    "": 1, "B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": GIB * KIB, "Ki": KIB, "Mi": MIB, "Gi": GIB,
    "Ti": GIB * KIB, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
}  # fmt: skip
_UNITS: Final[Mapping[str, Mapping[str, float]]] = {
    "_bytes": _BYTES,
    "_bps": {f"{unit}/s" if unit else "": factor for unit, factor in _BYTES.items()},
    "_ms": {"": 1, "ms": 1, "s": 1e3, "min": 6e4, "h": 3.6e6},
    "_s": {"": 1, "ms": 1e-3, "s": 1, "min": 60, "h": 3600},
    "_ratio": {"": 1, "%": 0.01},
    "_percent": {"": 1, "%": 1},
}
_OPERATORS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "==": operator.eq, "=": operator.eq, "!=": operator.ne,
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_EXAMPLE: Final = "write COLUMN OPERATOR VALUE, e.g. memory >= 4 GiB, outcome == completed"
_QUOTED: Final = r"""(?=(?:[^'"]|'[^']*'|"[^"]*")*$)"""
_JOINT: Final = re.compile(rf"\s*(?:,|\band\b)\s*{_QUOTED}", re.IGNORECASE)
_CONDITION: Final = re.compile(r"(?P<column>\w+)\s*(?:(?P<sign>==|!=|<=|>=|<|>|=)\s*|\s)(?P<value>[^\s=<>!].*)")
_NUMBER: Final = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*([a-z/%]*)", re.IGNORECASE)


class Condition(NamedTuple):
    """One comparison; `value` as it was written, without its quotes."""

    column: str
    sign: str
    value: str
    quoted: bool


def matching(table: pd.DataFrame, text: str) -> pd.Series[bool]:
    """Which rows of a table fulfil every condition of `text`: a column of bool with the table's index.

    Raises UsageError, in one line, for a text that is no condition, an unknown column (naming the nearest), a value
    that its column cannot have.

    >>> import pandas as pd
    >>> matching(pd.DataFrame({"memory_bytes": [2**30, 2**33]}), "memory >= 4 GiB").tolist()
    [False, True]
    """
    import pandas as pd

    kept = pd.Series(True, index=table.index)
    for condition in parse(text):
        kept &= fulfils(table[column_of(condition.column, list(table.columns))], condition)
    return kept


def parse(text: str) -> Iterator[Condition]:
    """The conditions of a text. Raises UsageError for one that is none."""
    for part in _JOINT.split(text.strip()):
        found = _CONDITION.fullmatch(part)
        if found is None:
            raise UsageError(f"condition {part!r}: {_EXAMPLE}")
        value = found["value"]
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
        if not quoted and re.search(r"\bor\b", value):
            raise UsageError(f"condition {part!r}: 'or' is not known here, only ',' and 'and'")
        yield Condition(found["column"], found["sign"] or "==", value[1:-1] if quoted else value, quoted)


def column_of(name: str, known: list[str]) -> str:
    """The column of this name among `known`, its unit given or not. Raises UsageError with the nearest one."""
    if name in known:
        return name
    short = [column for column in known for unit in _UNITS if column == name + unit]
    if len(short) != 1:
        raise unknown("column", name, known)
    return short[0]


def fulfils(column: pd.Series[Any], condition: Condition) -> pd.Series[bool]:
    """Which values of a column fulfil a condition on it. Raises UsageError for a value that it cannot have."""
    if condition.value == "unknown" and not condition.quoted:
        if condition.sign not in ("==", "=", "!="):
            raise UsageError(f"condition on {column.name}: a value is unknown (==) or is not (!=)")
        return column.notna() if condition.sign == "!=" else column.isna()
    found = _compared(column, condition).astype("boolean").fillna(False).astype(bool)
    return found & column.notna()


def _compared(column: pd.Series[Any], condition: Condition) -> pd.Series[Any]:
    import pandas as pd

    compare, kinds = _OPERATORS[condition.sign], pd.api.types
    if kinds.is_bool_dtype(column.dtype):
        return _equal(column, condition, _truth(condition))
    if kinds.is_numeric_dtype(column.dtype):
        found: pd.Series[Any] = compare(column, _number(str(column.name), condition))
        return found
    if kinds.is_datetime64_any_dtype(column.dtype):
        moment: pd.Series[Any] = compare(column, _moment(condition))
        return moment
    if not condition.quoted and set(condition.value) & set("*?"):
        like = column.map(lambda text: fnmatch.fnmatchcase(str(text), condition.value))
        return _equal(like, condition, True)
    return _equal(column, condition, condition.value)


def _equal(column: pd.Series[Any], condition: Condition, value: object) -> pd.Series[Any]:
    if condition.sign not in ("==", "=", "!="):
        raise UsageError(f"condition on {condition.column}: {condition.sign} needs a column of numbers; use == or !=")
    found: pd.Series[Any] = _OPERATORS[condition.sign](column, value)
    return found


def _truth(condition: Condition) -> bool:
    words = {"true": True, "yes": True, "false": False, "no": False}
    if condition.value.lower() not in words:
        raise UsageError(f"condition on {condition.column}: {condition.value!r} is neither true nor false")
    return words[condition.value.lower()]


def _number(name: str, condition: Condition) -> float:
    units = next((units for ending, units in _UNITS.items() if name.endswith(ending)), {"": 1})
    factors = {unit.lower(): factor for unit, factor in units.items()}
    found = _NUMBER.fullmatch(condition.value.strip())
    if found is None or found[2].lower() not in factors:
        known = ", ".join(unit for unit in units if unit)
        asked = f"a number, or one with a unit ({known})" if known else "a number"
        raise UsageError(f"condition on {name}: {condition.value!r} is not {asked}")
    # A whole number stays one: bytes beyond 2^53 are compared exactly.
    number = int(found[1]) if re.fullmatch(r"[-+]?\d+", found[1]) else float(found[1])
    return number * factors[found[2].lower()]


def _moment(condition: Condition) -> pd.Timestamp:
    import pandas as pd

    try:
        return pd.Timestamp(condition.value, tz="UTC")
    except ValueError:
        raise UsageError(
            f"condition on {condition.column}: {condition.value!r} is not a day or time, e.g. 2026-01-31"
        ) from None

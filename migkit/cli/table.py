"""Tables on a terminal: units from the column's name, three digits, a dash for what is unknown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from migkit.units import format_bps, format_bytes, format_ms, format_s

if TYPE_CHECKING:
    import pandas as pd

_BY_UNIT: Mapping[str, Callable[[float], str]] = {
    "_bytes": format_bytes,
    "_bps": format_bps,
    "_ms": format_ms,
    "_s": format_s,
    "_percent": lambda value: f"{value:.0f} %",
}


def render(table: pd.DataFrame, columns: Mapping[str, str]) -> str:
    """The chosen columns (name -> heading) as aligned text; numbers to the right, words to the left."""
    cells = [list(columns.values())]
    cells += [[cell(name, row[name]) for name in columns] for _, row in table.iterrows()]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [_is_numeric(table[name]) for name in columns]
    lines = (
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in cells
    )
    return "\n".join(lines)


def cell(name: str, value: Any) -> str:
    """One value as a person reads it; the column's name tells the unit."""
    if value is None or value != value:
        return "-"
    for ending, write in _BY_UNIT.items():
        if name.endswith(ending) and isinstance(value, int | float):
            return write(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _is_numeric(column: pd.Series[Any]) -> bool:
    return all(value is None or not isinstance(value, str) for value in column)

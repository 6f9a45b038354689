"""The traces of a command line: places, and conditions on their metadata."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from migkit.cli.table import cell

if TYPE_CHECKING:
    import pandas as pd

    from migkit.dataset import Dataset


def add_where(parser: argparse.ArgumentParser) -> None:
    """--where, which `chosen_traces` obeys."""
    parser.add_argument(
        "--where", metavar="CONDITIONS",
        help="only traces whose metadata fulfils them, e.g. 'memory >= 4 GiB, outcome == completed, name == long-*'",
    )  # fmt: skip


def chosen_traces(arguments: argparse.Namespace, *, skip_bad: bool = False) -> Dataset:
    """The traces at the places given that fulfil --where. When none does, that is said on stderr."""
    from migkit.dataset import open_dataset

    traces = open_dataset(*arguments.traces, skip_bad=skip_bad)
    if arguments.where is None:
        return traces
    kept = traces.where(arguments.where)
    if len(traces) and not len(kept):
        hint = _hint(traces.catalogue, arguments.where)
        print(f"migkit: none of {_count(len(traces))} fulfils {arguments.where!r}{hint}", file=sys.stderr)
    return kept


def print_left_out(traces: Dataset) -> None:
    """What could not be read, on stderr: a line a file and reason."""
    from migkit.dataset.partition import file_of

    for (place, why), count in Counter((file_of(place), why) for place, why in traces.bad).items():
        print(f"migkit: {place}: {why}" + (f" ({count} traces)" if count > 1 else ""), file=sys.stderr)


def _count(traces: int) -> str:
    return f"{traces} trace{'' if traces == 1 else 's'}"


def _hint(table: pd.DataFrame, text: str) -> str:
    """What the column of the first condition that nothing fulfils really holds."""
    from migkit import conditions

    for condition in conditions.parse(text):
        name = conditions.column_of(condition.column, list(table.columns))
        if not conditions.fulfils(table[name], condition).any():
            return f" ({name} is {_values(table[name])})"
    return ""


def _values(column: pd.Series[Any]) -> str:
    import pandas as pd

    known, name = column.dropna(), str(column.name)
    if known.empty:
        return "unknown in all of them"
    if pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype):
        return _span(cell(name, float(known.min())), cell(name, float(known.max())))
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return _span(f"{known.min():%Y-%m-%d}", f"{known.max():%Y-%m-%d}")
    values = [str(value) for value in known.value_counts().index]
    return ", ".join(values[:6]) + (f" and {len(values) - 6} more" if len(values) > 6 else "")


def _span(least: str, most: str) -> str:
    return least if least == most else f"{least} to {most}"

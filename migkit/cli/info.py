"""`migkit info`: a line a trace."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from migkit import schema
from migkit.cli.table import render
from migkit.errors import MigkitError, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from migkit.trace import Trace


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb to the parser."""
    parser = verbs.add_parser("info", help="say what traces hold, a line each", description=__doc__)
    parser.add_argument("traces", nargs="*", metavar="TRACE", help="a trace, or a folder of them")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a line, everything a trace knows of itself"
    )
    parser.add_argument("--card", action="store_true", help="a page in Markdown about the set of traces")
    parser.add_argument(
        "--check", action="store_true", help="say whether traces are fit to be shared, a line each; 1 when one is not"
    )
    parser.add_argument("--columns", action="store_true", help="explain the columns of a trace, in Markdown")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints the table, or the JSON lines."""
    if arguments.columns:
        print(schema.glossary(), end="")
        return 0
    if not arguments.traces:
        raise UsageError("info needs a trace, or a folder of them")
    if arguments.check:
        return _check(arguments.traces)
    if arguments.card:
        from migkit.card import data_card
        from migkit.dataset import open_dataset

        print(data_card(open_dataset(*arguments.traces)), end="")
        return 0
    traces, table, refused = _readable(arguments.traces)
    _print(traces, table, as_json=arguments.json)
    for error in refused:
        print(f"migkit: {error}", file=sys.stderr)
    return 1 if refused else 0


def _readable(places: list[str]) -> tuple[list[Trace], pd.DataFrame, list[MigkitError]]:
    """The traces that can be read, their table, and what is wrong with the others: no bad file hides a good one."""
    import pandas as pd

    from migkit import stats
    from migkit.dataset import named_paths
    from migkit.trace import Trace

    traces, tables, refused = [], [], []
    for path, name in named_paths(*places):
        try:
            trace = Trace.load(path, name)
            tables.append(stats.summary([trace]).reset_index().astype(object))
        except MigkitError as error:
            refused.append(error)
        else:
            traces.append(trace)
    return traces, pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(), refused


def _print(traces: list[Trace], table: pd.DataFrame, *, as_json: bool) -> None:
    if as_json:
        for trace, (_, row) in zip(traces, table.iterrows(), strict=True):
            known = {key: value for key, value in row.items() if value is not None and value == value}
            print(json.dumps({**known, "meta": json.loads(trace.meta.to_json())}, default=_scalar))
    elif traces:
        print(render(table, _COLUMNS))
        if len(traces) == 1:
            _print_failure(traces[0])


def _print_failure(trace: Trace) -> None:
    """What went wrong, in words; nothing where nothing did."""
    from migkit.failures import failure_of, told

    failure = failure_of(trace.meta.end)
    if failure is not None:
        print("\n" + "\n".join(f"  {line}" for line in told(failure).splitlines()))


def _check(places: list[str]) -> int:
    """A line a trace; 1 when any is not fit to be shared."""
    from migkit.card import check
    from migkit.dataset import trace_paths

    found = [check(path) for path in trace_paths(*places)]
    for one in found:
        verdict = "not to be shared yet: " + "; ".join(one.problems) if one.problems else "ready to be shared"
        print(f"{one.name}: {verdict} ({one.facts})" if one.facts else f"{one.name}: {verdict}")
    return 1 if any(one.problems for one in found) else 0


_COLUMNS = {
    "trace": "trace",
    "outcome": "outcome",
    "provenance": "provenance",
    "duration_s": "duration",
    "memory_bytes": "memory",
    "bandwidth_bps": "bandwidth",
    "dirty_rate_bps": "dirty rate",
    "iterations": "iterations",
    "downtime_ms": "downtime",
    "heartbeat_downtime_ms": "by heartbeat",
    "samples": "samples",
}


def _scalar(value: object) -> object:
    return value.item() if hasattr(value, "item") else str(value)

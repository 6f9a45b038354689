"""`migkit info`: a line a trace."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from migkit import schema
from migkit.cli.table import render
from migkit.cli.traces import add_where, chosen_traces, print_left_out
from migkit.errors import MigkitError, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from migkit.dataset import Dataset
    from migkit.trace import Trace


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb to the parser."""
    parser = verbs.add_parser("info", help="say what traces hold, a line each", description=__doc__)
    parser.add_argument("traces", nargs="*", metavar="TRACE", help="a trace, or a folder of them")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a line, everything a trace knows of itself"
    )
    parser.add_argument("--card", action="store_true", help="a page in Markdown about the set of traces")
    parser.add_argument("--downtime", action="store_true",
                        help="a page in Markdown: which downtime to believe, by kind of pause")  # fmt: skip
    parser.add_argument(
        "--check", action="store_true", help="say whether traces are fit to be shared, a line each; 1 when one is not"
    )
    parser.add_argument("--columns", action="store_true", help="explain the columns of a trace, in Markdown")
    add_where(parser)
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints the table, or the JSON lines; whatever is wrong with a trace follows, so that no bad file hides a good
    one."""
    if arguments.columns:
        print(schema.glossary(), end="")
        return 0
    if not arguments.traces:
        raise UsageError("info needs a trace, or a folder of them")
    if arguments.card or arguments.downtime:
        return _page(arguments)
    traces = chosen_traces(arguments, skip_bad=True)
    if arguments.check:
        return _check(traces)
    if arguments.json:
        _print_json(traces)
    elif len(traces) > _READ_AT_MOST:
        _print_catalogue(traces)
    else:
        _print_table(traces)
    print_left_out(traces)
    return 1 if traces.bad else 0


def _summaries(traces: Dataset) -> Iterator[tuple[Trace, pd.DataFrame]]:
    """Each trace and its row of the table."""
    from migkit import stats
    from migkit.dataset import Bad

    for trace in traces:
        try:
            yield trace, stats.summary([trace]).reset_index().astype(object)
        except MigkitError as error:
            traces.bad.append(Bad(trace.name, str(error).removeprefix(f"{trace.name}: ")))


def _print_table(traces: Dataset) -> None:
    import pandas as pd

    found = list(_summaries(traces))
    if found:
        print(render(pd.concat([table for _, table in found], ignore_index=True), _COLUMNS))
    if len(found) == 1:
        _print_failure(found[0][0])


def _print_catalogue(traces: Dataset) -> None:
    table = traces.catalogue.astype(object)
    print(render(table.where(table.notna(), None), _CATALOGUE_COLUMNS))
    print(
        f"migkit: bandwidth and dirty rate are left out for more than {_READ_AT_MOST} traces: choose some with --where",
        file=sys.stderr,
    )


def _print_failure(trace: Trace) -> None:
    """What went wrong, in words; nothing where nothing did."""
    from migkit.failures import failure_of, told

    failure = failure_of(trace.meta.end)
    if failure is not None:
        print("\n" + "\n".join(f"  {line}" for line in told(failure).splitlines()))


def _print_json(traces: Dataset) -> None:
    for trace, table in _summaries(traces):
        known = {key: value for key, value in table.iloc[0].items() if value is not None and value == value}
        print(json.dumps({**known, "meta": json.loads(trace.meta.to_json())}, default=_scalar))


def _page(arguments: argparse.Namespace) -> int:
    """One of the pages on a set."""
    from migkit import downtime
    from migkit.card import data_card

    write = downtime.page if arguments.downtime else data_card
    print(write(list(chosen_traces(arguments))), end="")
    return 0


def _check(traces: Dataset) -> int:
    """A line a trace; 1 when any is not fit to be shared."""
    from migkit.card import Check, check_trace
    from migkit.dataset.places import stem

    found = [check_trace(trace) for trace in traces]
    found += [Check(name=stem(place), problems=(f"{place}: {why}",)) for place, why in traces.bad]
    for one in found:
        verdict = "not to be shared yet: " + "; ".join(one.problems) if one.problems else "ready to be shared"
        print(f"{one.name}: {verdict} ({one.facts})" if one.facts else f"{one.name}: {verdict}")
    return 1 if any(one.problems for one in found) else 0


# Rows are read for up to so many traces: some thirty milliseconds each.
_READ_AT_MOST = 200

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


_CATALOGUE_COLUMNS = {
    "name": "trace",
    "outcome": "outcome",
    "provenance": "provenance",
    "duration_s": "duration",
    "memory_bytes": "memory",
    "bandwidth_limit_bps": "bandwidth limit",
    "iterations": "iterations",
    "downtime_ms": "downtime",
    "heartbeat_downtime_ms": "by heartbeat",
    "rows": "rows",
}


def _scalar(value: object) -> object:
    return value.item() if hasattr(value, "item") else str(value)

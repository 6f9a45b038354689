"""`migkit info`: a line a trace."""

from __future__ import annotations

import argparse
import json

from migkit import schema
from migkit.cli.table import render
from migkit.errors import UsageError


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb to the parser."""
    parser = verbs.add_parser("info", help="say what traces hold, a line each", description=__doc__)
    parser.add_argument("traces", nargs="*", metavar="TRACE", help="a trace, or a folder of them")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a line, everything a trace knows of itself"
    )
    parser.add_argument("--card", action="store_true", help="a page in Markdown about the set of traces")
    parser.add_argument("--columns", action="store_true", help="explain the columns of a trace, in Markdown")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints the table, or the JSON lines."""
    if arguments.columns:
        print(schema.glossary(), end="")
        return 0
    if not arguments.traces:
        raise UsageError("info needs a trace, or a folder of them")
    from migkit import stats
    from migkit.dataset import open_dataset

    traces = open_dataset(*arguments.traces)
    if arguments.card:
        from migkit.card import data_card

        print(data_card(traces), end="")
        return 0
    table = stats.summary(traces)
    if arguments.json:
        for trace, (_, row) in zip(traces, table.iterrows(), strict=True):
            known = {key: value for key, value in row.items() if value is not None and value == value}
            print(json.dumps({"trace": trace.name, **known, "meta": json.loads(trace.meta.to_json())}, default=_scalar))
        return 0
    print(render(table.reset_index(), _COLUMNS))
    return 0


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

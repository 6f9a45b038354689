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

"""`migkit info`: a line a trace."""

from __future__ import annotations

import argparse
import json

from migkit.cli.table import render


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb to the parser."""
    parser = verbs.add_parser("info", help="say what traces hold, a line each", description=__doc__)
    parser.add_argument("traces", nargs="+", metavar="TRACE", help="a trace, or a folder of them")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a line, everything a trace knows of itself"
    )
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints the table, or the JSON lines."""
    from migkit import stats
    from migkit.dataset import open_dataset

    traces = open_dataset(*arguments.traces)
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

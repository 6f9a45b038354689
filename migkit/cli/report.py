"""`migkit report`: traces, pictures and what policies would have done, as one HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migkit.cli.policies import chosen_policies, has_vfio, origins_told
from migkit.cli.replay import action_text, add_policy_options, notes_told
from migkit.units import format_s

if TYPE_CHECKING:
    import pandas as pd

    from migkit.drivers.replay import Replay


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb to the parser."""
    parser = verbs.add_parser("report", help="write one HTML page about traces and policies", description=__doc__)
    parser.add_argument("traces", nargs="+", metavar="TRACE", help="a trace, or a folder of them")
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="folder of the page and its pictures")
    parser.add_argument("--force", action="store_true", help="overwrite a page that exists")
    add_policy_options(parser)
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Replays, prints the table, writes the page and says where it is."""
    arguments.policy = arguments.policy or ([] if arguments.config else ["kubevirt-1.8"])
    policies = chosen_policies(arguments)
    import matplotlib

    matplotlib.use("agg")
    import pandas as pd

    from migkit import report
    from migkit.cli.table import render
    from migkit.dataset import open_dataset
    from migkit.drivers.replay import parse_failures, replay

    traces = list(open_dataset(*arguments.traces))
    failures, vfio = parse_failures(arguments.fail), has_vfio(arguments)
    runs = {
        label: [
            replay(t, policy, failures=failures, data_size_gb=arguments.data_size_gb, has_vfio=vfio) for t in traces
        ]
        for label, policy in policies.items()
    }
    rows = [_row(label, found) for series in zip(*runs.values(), strict=True)
            for label, found in zip(runs, series, strict=True)]  # fmt: skip
    table = pd.DataFrame(rows)
    print(origins_told(arguments), end="")
    print(render(_sparse(table), {name: name for name in table.columns}))
    print(notes_told(run for series in runs.values() for run in series), end="")
    page = report.write(Path(arguments.output), traces, runs, table, force=arguments.force)
    print(f"\nPage: {page}\nPictures: {page.parent}/*.png")
    return 0


def _row(label: str, found: Replay) -> dict[str, str]:
    first = found.decisions.head(1)
    row = {
        "trace": found.trace.name,
        "was": found.trace.meta.provenance,
        "really": found.trace.meta.end.outcome,
        "policy": label,
        "deadline": f"{found.deadline_s} s" if found.deadline_s else "none",
    }
    if first.empty:
        left = found.divergence_s
        basis = "observed" if left is None else f"unknowable after {format_s(round(left, 1))}"
        return row | {"would have": "done nothing", "after": "", "spread": "", "why": "", "basis": basis}
    decision: Any = next(first.itertuples())
    return row | {
        "would have": action_text(str(decision.action), decision.argument) + _more(len(found.decisions)),
        "after": format_s(round(float(decision.t_s), 1)),
        "spread": f"{decision.earliest_s:.1f} to {decision.latest_s:.1f} s",
        "why": str(decision.reason),
        "basis": str(decision.basis),
    }


def _more(decisions: int) -> str:
    return f" (+{decisions - 1})" if decisions > 1 else ""


def _sparse(table: pd.DataFrame) -> pd.DataFrame:
    """Repeated names of a trace left out, for the terminal."""
    shown = table.copy()
    again = shown["trace"].eq(shown["trace"].shift())
    for name in ("trace", "was", "really"):
        shown.loc[again, name] = ""
    return shown

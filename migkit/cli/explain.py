"""`migkit explain`: why a migration went as it did."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING

from migkit.cli.traces import add_where, chosen_traces, print_left_out
from migkit.errors import MigkitError

if TYPE_CHECKING:
    from migkit.explanation import Explanation

_NARROWEST = 60


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb to the parser."""
    parser = verbs.add_parser(
        "explain",
        help="say why a migration went as it did",
        description="Says what held a migration up, whether it converges, what would have helped, and which of "
        "KubeVirt's default thresholds would have fired; with the evidence, and 'cannot tell' where there is none.",
    )
    parser.add_argument("traces", nargs="+", metavar="TRACE", help="a trace, or a folder of them")
    add_where(parser)
    parser.add_argument("--brief", action="store_true", help="a line a trace, nothing replayed")
    parser.add_argument("--json", action="store_true", help="one JSON object a trace, a line each, with all figures")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Explains each trace; 1 when one cannot be read or holds no migration, the others are explained nevertheless."""
    from migkit.explanation import explain

    traces = chosen_traces(arguments, skip_bad=True)
    found, refused = [], False
    for trace in traces:
        try:
            one = explain(trace, thresholds=not arguments.brief)
        except MigkitError as error:
            print(f"migkit: {error}", file=sys.stderr)
            refused = True
            continue
        if arguments.json:
            print(one.to_json())
        elif arguments.brief:
            found.append(one)
        else:
            print(told(one, shutil.get_terminal_size((110, 24)).columns), end="\n\n")
    if found:
        print(brief(found))
    print_left_out(traces)
    return 1 if refused or traces.bad else 0


def told(found: Explanation, width: int) -> str:
    """A paragraph, where the time went, and a table of the answers, no wider than `width` columns."""
    width = max(width, _NARROWEST)
    head = textwrap.fill(found.paragraph, width, break_on_hyphens=False)
    times = textwrap.fill(f"time: {_times(found)}", width, subsequent_indent="      ")
    return f"{head}\n\n{_table(found, width)}" + (f"\n\n{times}" if _times(found) else "")


def _table(found: Explanation, width: int) -> str:
    rows = [(row.question, row.answer, row.evidence) for row in found.table.itertuples()]
    names, answers = (max(len(str(row[i])) for row in rows) for i in (0, 1))
    lines = []
    for question, answer, evidence in rows:
        first = f"{question:<{names}}  {answer:<{answers}}  "
        lines.append(textwrap.fill(str(evidence), width, initial_indent=first, subsequent_indent=" " * len(first),
                                   break_on_hyphens=False))  # fmt: skip
    return "\n".join(lines)


def _times(found: Explanation) -> str:
    """Where the time went, phases that took none left out."""
    from migkit.explanation.evidence import length

    parts = [
        f"{phase} {length(value)}" for phase, value in found.time_s.items() if phase != "lost" and round(value, 1) > 0
    ]
    lost = found.time_s["lost"]
    return ", ".join(parts) + (f"; {length(lost)} of it lost to stalls or a slow path" if lost else "")


def brief(found: list[Explanation]) -> str:
    """A line a trace: what held it up, whether it converges, and its fault."""
    import pandas as pd

    from migkit.cli.table import render

    rows = [(one.trace.name, one.trace.meta.end.outcome, " or ".join(one.limited_by) or "cannot tell",
             _by_itself(one), _fault(one), one.verdict.because) for one in found]  # fmt: skip
    headings = ["trace", "outcome", "held up by", "converges by itself", "fault", "judged by"]
    return render(pd.DataFrame(rows, columns=headings), {name: name for name in headings})


def _fault(found: Explanation) -> str:
    from migkit.explanation.evidence import length

    begins_s, ends_s = found.verdict.fault_from_s, found.verdict.fault_until_s
    if begins_s is None:
        return ""
    until = "on" if ends_s is None else f"to {length(ends_s)}"
    return f"from {length(begins_s)} {until}"


def _by_itself(found: Explanation) -> str:
    """What is not over can only be judged by how the guest wrote."""
    held = found.converges == "no" and found.trace.meta.end.outcome in ("completed", "cancelled")
    return "not at this dirty rate" if held else found.converges

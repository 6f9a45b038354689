"""`migkit compare`: what a change of version or options would change on recorded migrations."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from migkit.cli.policies import chosen_policies, has_vfio, origins_told
from migkit.cli.replay import DOUBT, add_policy_options, notes_told
from migkit.cli.table import render
from migkit.errors import UsageError
from migkit.units import format_s

if TYPE_CHECKING:
    from migkit.drivers.replay import Replay


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb to the parser."""
    parser = verbs.add_parser("compare", help="say what differs between policies", description=__doc__)
    parser.add_argument("traces", nargs="+", metavar="TRACE", help="a trace, or a folder of them")
    add_policy_options(parser)
    parser.add_argument("-o", "--output", metavar="DIR", help="also draw a picture a trace into this folder")
    parser.add_argument("--force", action="store_true", help="overwrite pictures that exist")
    parser.add_argument("--json", action="store_true", help="one JSON object a trace and policy, a line each")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints the first difference of each trace and the counts; draws lanes when asked to."""
    policies = chosen_policies(arguments)
    if len(policies) < 2:
        raise UsageError("compare needs at least two --policy, e.g. --policy kubevirt-1.8 --policy kubevirt-1.9")
    from migkit.comparison import compare
    from migkit.dataset import open_dataset
    from migkit.drivers.replay import parse_failures

    traces = open_dataset(*arguments.traces)
    found = compare(
        traces, policies, failures=parse_failures(arguments.fail), data_size_gb=arguments.data_size_gb,
        has_vfio=has_vfio(arguments), anyway=arguments.anyway,
    )  # fmt: skip
    if arguments.json:
        for row in json.loads(found.table.to_json(orient="records", double_precision=3)):
            print(json.dumps(row))
        return 0
    print(origins_told(arguments), end="")
    shown = found.table.copy()
    shown["first difference"] = [
        format_s(t) if d else "none" for t, d in zip(shown["t_s"], shown["differs"], strict=True)
    ]
    for who in ("baseline", "policy"):
        timed = zip(shown[f"{who}_does"], shown[f"{who}_t_s"], strict=True)
        shown[f"{who}_does"] = [does if t is None or t != t else f"{does} at {t:.1f} s" for does, t in timed]
    shown["spread"] = [
        "" if not d else "larger" if b else "within"
        for d, b in zip(shown["differs"], shown["beyond_spread"], strict=True)
    ]
    baseline = next(iter(policies))
    columns = {
        "trace": "trace", "policy": "policy", "first difference": "first difference",
        "baseline_does": f"{baseline} does", "policy_does": "it does", "spread": "than the spread", "basis": "basis",
        "reason": "why",
    }  # fmt: skip
    print(render(shown, columns))
    print("\n" + render(found.summary, {name: name for name in found.summary.columns}))
    print(_doubts(found.runs), end="")
    print(notes_told(run for runs in found.runs.values() for run in runs), end="")
    if arguments.output:
        _draw(found.runs, Path(arguments.output), force=arguments.force)
    return 0


def _doubts(runs: Mapping[str, Sequence[Replay]]) -> str:
    """A line a policy and reason for the traces that do not answer exactly; nothing where all do."""
    lines = []
    for label, series in runs.items():
        reasons = Counter((run.fidelity.level, run.fidelity.why) for run in series if run.fidelity.level != "exact")
        for (level, why), count in reasons.items():
            lines.append(f"{label}: {count} of {len(series)} traces {DOUBT[level]}: {why}\n")
    return "\n" + "".join(lines) if lines else ""


def _draw(runs: object, folder: Path, *, force: bool) -> None:
    import matplotlib

    matplotlib.use("agg")
    from migkit import plot
    from migkit.cli.plot import save

    assert isinstance(runs, dict)
    print()
    for series in zip(*runs.values(), strict=True):
        axes = plot.decisions(series, labels=list(runs))
        save(axes[0], folder / f"{series[0].trace.name}.decisions.png", force=force)

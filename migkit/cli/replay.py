"""`migkit replay`: what a policy would have done to recorded migrations."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, SupportsInt

from migkit.cli.policies import chosen_policies, has_vfio, origins_told
from migkit.errors import UsageError
from migkit.units import format_ms, format_s

if TYPE_CHECKING:
    from migkit.drivers.replay import Replay


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb to the parser."""
    parser = verbs.add_parser("replay", help="say what a policy would have done", description=__doc__)
    parser.add_argument("traces", nargs="+", metavar="TRACE", help="a trace, or a folder of them")
    add_policy_options(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object a trace, a line each")
    parser.set_defaults(handler=run)


def add_policy_options(parser: argparse.ArgumentParser) -> None:
    """--policy and what goes with it."""
    parser.add_argument(
        "--policy", action="append", default=[], metavar="[LABEL=]NAME[,OPTION=VALUE...]",
        help="e.g. kubevirt-1.8, or tight=kubevirt-1.8,progress_timeout=5; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--config", action="append", default=[], metavar="FILE",
        help="options from a KubeVirt, HyperConverged, MigrationPolicy or VMI object in YAML or JSON; may be given "
        "several times, a policy lies over its cluster; --policy names the version, and may change options",
    )  # fmt: skip
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="an option for every policy given; has_vfio=true or false: whether the guest has host devices",
    )
    parser.add_argument(
        "--data-size-gb", type=_size, metavar="N",
        help="the size behind the completion deadline (default: from the trace's metadata)",
    )  # fmt: skip
    parser.add_argument(
        "--fail", action="append", default=[], metavar="CALL=N[,N...]",
        help="let the N-th of a libvirt call's uses fail (all: every one), e.g. MigrateStartPostCopy=1",
    )  # fmt: skip
    parser.add_argument(
        "--anyway", action="store_true", help="go on where a trace cannot answer for a policy; decisions are modelled"
    )


def _size(text: str) -> int:
    if not text.isdigit() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of GB (a whole number, 0 or more)")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Prints what each policy would have done to each trace."""
    if not arguments.policy and not arguments.config:
        raise UsageError("replay needs --policy, e.g. --policy kubevirt-1.8, or --config FILE")
    policies = list(chosen_policies(arguments).items())
    from migkit.dataset import open_dataset
    from migkit.drivers.replay import parse_failures, replay

    failures, vfio = parse_failures(arguments.fail), has_vfio(arguments)
    if not arguments.json:
        print(origins_told(arguments), end="")
    for index, trace in enumerate(open_dataset(*arguments.traces)):
        for label, policy in policies:
            found = replay(trace, policy, failures=failures, data_size_gb=arguments.data_size_gb, has_vfio=vfio,
                           anyway=arguments.anyway)  # fmt: skip
            if arguments.json:
                print(json.dumps({"label": label, **json.loads(found.to_json())}))
            else:
                print(("\n" if index or label != policies[0][0] else "") + told(label, found))
    return 0


def told(label: str, found: Replay) -> str:
    """A replay as text: a head, a line a decision, the divergence."""
    trace, policy = found.trace, found.policy
    deadline = f"{found.deadline_s} s ({found.data_size_gb} GB)" if found.deadline_s else "none"
    name = label if label == policy.name else f"{label} = {policy}"
    head = (
        f"{trace.name} ({trace.meta.provenance}, {trace.meta.end.outcome}) under {name}; completion deadline {deadline}"
    )
    doubt = [] if found.fidelity.level == "exact" else [f"  {DOUBT[found.fidelity.level]}: {found.fidelity.why}"]
    lines = [head, *doubt, *(f"  {_line(row)}" for row in found.decisions.head(_SHOWN).itertuples())]
    if found.decisions.empty:
        lines.append("  does nothing")
    if len(found.decisions) > _SHOWN:
        lines.append(f"  and {len(found.decisions) - _SHOWN} more (--json has them all)")
    if found.divergence_s is not None:
        lines.append(f"  leaves what was really done at {format_s(found.divergence_s)}: unknowable from there on")
    lines += [f"  note: {note}" for note in found.notes]
    return "\n".join(lines)


def notes_told(runs: Iterable[Replay]) -> str:
    """What weakens any of the replays, each once; empty where nothing does."""
    notes = dict.fromkeys(note for run in runs for note in run.notes)
    return "".join(f"\nnote: {note}" for note in notes) + ("\n" if notes else "")


_SHOWN = 12
DOUBT = {"approximate": "approximate", "no": "a model, not an answer"}


def _line(row: object) -> str:
    get = row.__getattribute__
    spread = get("latest_s") - get("earliest_s")
    when = f"{get('t_s'):.1f} s" + (f" ({get('earliest_s'):.1f} to {get('latest_s'):.1f})" if spread > 0.05 else "")
    failed = "" if get("succeeded") else " (fails)"
    what = action_text(get("action"), get("argument")) + failed
    return f"{when}  {what}  {get('reason')} [{get('basis')}]: {get('evidence')}"


def action_text(action: str, argument: object) -> str:
    """An action as it is read: `set max downtime 300 ms`."""
    words = action.replace("_", " ").replace("post copy", "post-copy")
    return f"{words} {format_ms(int(argument))}" if isinstance(argument, SupportsInt) else words

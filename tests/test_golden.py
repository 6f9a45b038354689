"""What every version decides on every stored trace, as small texts to be read; `make golden` writes them anew."""

from __future__ import annotations

import re
from pathlib import Path

import migkit as mk
from migkit.policies import Policy, policy_names
from tests.conftest import TRACES

TIGHT = {"completion_timeout_per_gib": 10, "progress_timeout": 3}


def settings(name: str) -> dict[str, Policy]:
    """A version's defaults, and short deadlines with nothing, disruption, or post-copy allowed."""
    known = mk.policy(name).options
    window = {"stall_progress_timeout": 5, "switchover_timeout": 5} if "-stall" in name else {}
    short = TIGHT | window
    made = {"defaults": mk.policy(name), "short": mk.policy(name, **short)}
    if "allow_workload_disruption" in known:
        made["disruption"] = mk.policy(name, allow_workload_disruption=True, **short)
    made["post-copy"] = mk.policy(name, allow_post_copy=True, **short)
    if "-stall" in name:
        # A deadline far enough away for the stall to be found before it.
        early = {"completion_timeout_per_gib": 60, "stall_progress_timeout": 3}
        made["early stall"] = mk.policy(name, **early)
        made["early stall, wide"] = mk.policy(name, max_downtime_ms=4000, **early)
        made["early stall, disruption"] = mk.policy(name, allow_workload_disruption=True, **early)
        made["early stall, post-copy"] = mk.policy(name, allow_post_copy=True, **early)
    return made


def test_every_version_decides_what_it_decided(migkit_trace, migkit_golden):
    runs, alike = {}, {}
    for name in policy_names():
        for label, policy in settings(name).items():
            # Versions of one family with the same options are one computation.
            rules = (policy.family, policy.hears_iterations, policy.computed(data_size_gb=1, has_vfio=False))
            alike[str(rules)] = alike.get(str(rules)) or mk.replay(migkit_trace, policy)
            runs[f"{name} {label}"] = alike[str(rules)]
    migkit_golden(runs)


KINDS = {("action", kind) for kind in ("start_post_copy", "suspend", "set_max_downtime", "abort")}
KINDS |= {("reason", kind) for kind in ("stuck", "timeout", "downtime-tuning", "not-completable")}
KINDS |= {("reason", f"stall-{what}") for what in ("abort", "soft-stop", "hard-stop", "post-copy")}
# With a VFIO device the rules by events never switch to post-copy; looked at on these alone.
WITH_VFIO = (
    "auto-converge", "block-then-ram", "bursty", "converge-slow", "destination-stopped", "downtime-raised", "link-down",
    "noconverge_abort", "nonconverging-aborted", "nonconverging-long", "post-copy", "random-writes", "stall_link",
)  # fmt: skip
Counts = dict[tuple[str, str], dict[str, set[str]]]  # (action or reason, kind) -> policy -> traces


def test_every_kind_of_action_occurs_on_at_least_three_real_traces(migkit_golden):
    """Action and reason against policy, in how many traces of the set; out of the texts above."""
    over_the_set = counted_in_the_texts()
    text = f"Real traces of {len(real_traces())} on which a policy does this, under any setting of test_golden.py:\n\n"
    text += as_table(over_the_set)
    text += f"\nThe same on {len(WITH_VFIO)} of them with a VFIO device, where the rules go by events:\n\n"
    migkit_golden(text + as_table(counted_with_vfio()), name="ACTIONS")
    assert {kind for kind in KINDS if max(map(len, over_the_set.get(kind, {"": set()}).values())) < 3} == set()


def test_every_text_is_of_a_trace_that_is_there():
    """A trace that is renamed or taken away leaves no text behind."""
    assert {path.stem for path in FOLDER.glob("*.txt")} - {"ACTIONS"} == {
        path.stem for path in TRACES.glob("*.parquet")
    }


def real_traces() -> list[str]:
    texts = sorted(set(FOLDER.glob("*.txt")) - {FOLDER / "ACTIONS.txt"})
    return [path.stem for path in texts if ": simulated," not in path.read_text().splitlines()[0]]


def counted_in_the_texts() -> Counts:
    counts: Counts = {}
    for name in real_traces():
        for block in (FOLDER / f"{name}.txt").read_text().split("\n\n")[1:]:
            lines = block.splitlines()
            policies = {line.split()[0] for line in lines if not line.startswith(" ")}
            for action, reason in DECISION.findall(block):
                for policy in policies:
                    note(counts, policy, name, action, reason)
    return counts


def counted_with_vfio() -> Counts:
    counts: Counts = {}
    for trace in mk.open_dataset(*(TRACES / f"{name}.parquet" for name in WITH_VFIO)):
        for name in policy_names():
            for policy in settings(name).values() if mk.policy(name).family.rules == "events" else ():
                for decision in mk.replay(trace, policy, has_vfio=True).decisions.itertuples():
                    note(counts, name, trace.name, decision.action, decision.reason)
    return counts


def note(counts: Counts, policy: str, trace: str, action: str, reason: str) -> None:
    for key in (("action", action), ("reason", reason)):
        counts.setdefault(key, {}).setdefault(policy, set()).add(trace)


def as_table(counts: Counts) -> str:
    """A line a kind, a column for neighbouring policies that do the same on the same traces."""
    kinds, columns = sorted(counts), list[tuple[list[str], list[set[str]]]]()
    for policy in [name for name in policy_names() if any(name in found for found in counts.values())]:
        own = [counts[kind].get(policy, set()) for kind in kinds]
        if columns and columns[-1][1] == own:
            columns[-1][0].append(policy)
        else:
            columns.append(([policy], own))
    heads = [" to ".join(dict.fromkeys(name.removeprefix("kubevirt-") for name in (n[0], n[-1]))) for n, _ in columns]
    lines = [" " * 25 + "".join(f"{head:>13}" for head in heads)]
    for i, kind in enumerate(kinds):
        lines.append(f"{' '.join(kind):<25}" + "".join(f"{len(own[i]) or '-':>13}" for _, own in columns))
    return "\n".join(lines) + "\n"


FOLDER = Path(__file__).with_name("golden")
DECISION = re.compile(r"^  [\d.]+ s \(.*phases\) (\w+).*: ([\w-]+), \w+$", re.MULTILINE)

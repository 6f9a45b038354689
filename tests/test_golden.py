"""What every version decides on every stored trace, as small texts to be read; `make golden` writes them anew."""

from __future__ import annotations

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


def test_every_kind_of_action_occurs_on_at_least_three_real_traces(migkit_golden):
    """Counted over the settings above, with and without VFIO: action and reason against policy."""
    found = mk.open_dataset(*(TRACES / f"{name}.parquet" for name in COUNTED))
    traces = [trace for trace in found if trace.meta.provenance != "simulated"]
    assert len(traces) == len(COUNTED)
    counts: dict[tuple[str, str], dict[str, set[str]]] = {}
    names = [name for name in policy_names() if name not in OLDER]
    for name in names:
        for trace in traces:
            for policy in settings(name).values():
                for vfio in (False, True) if policy.family.rules == "events" else (False,):
                    table = mk.replay(trace, policy, has_vfio=vfio).decisions
                    for action in table["action"].unique():
                        kind = counts.setdefault(("action", str(action)), {})
                        kind.setdefault(name, set()).add(trace.name)
                    for reason in table["reason"].unique():
                        kind = counts.setdefault(("reason", str(reason)), {})
                        kind.setdefault(name, set()).add(trace.name)
    lines = [f"{'real traces on which it occurs':<32}" + "".join(f"{name[9:]:>13}" for name in names)]
    for (what, kind), found in sorted(counts.items()):
        cells = "".join(f"{len(found.get(name, ())) or '-':>13}" for name in names)
        lines.append(f"{what + ' ' + kind:<32}{cells}")
    migkit_golden("\n".join(lines) + "\n", name="ACTIONS")
    kinds = {("action", kind) for kind in ("start_post_copy", "suspend", "set_max_downtime", "abort")}
    kinds |= {("reason", "stuck"), ("reason", "timeout"), ("reason", "downtime-tuning"), ("reason", "not-completable")}
    kinds |= {("reason", f"stall-{what}") for what in ("abort", "soft-stop", "hard-stop", "post-copy")}
    assert {kind for kind in kinds if max(map(len, counts.get(kind, {"": ()}).values())) < 3} == set()


COUNTED = (
    "auto-converge", "block-then-ram", "bursty", "converge-slow", "destination-stopped", "downtime-raised", "link-down",
    "noconverge_abort", "nonconverging-aborted", "nonconverging-long", "post-copy", "random-writes", "stall_link",
)  # fmt: skip
# They decide as v1.4 does; their decisions are in the texts above.
OLDER = (
    "kubevirt-0.59",
    "kubevirt-1.0",
    "kubevirt-1.1",
    "kubevirt-1.2",
    "kubevirt-1.3",
    "kubevirt-1.6",
    "kubevirt-1.7",
)

"""Why a migration went as it did: the operator's questions, answered from the trace alone."""

from __future__ import annotations

from collections.abc import Mapping

from migkit import stats
from migkit.errors import UsageError
from migkit.explanation.answer import Answer, Explanation
from migkit.explanation.course import Course, course
from migkit.explanation.questions import answers
from migkit.explanation.thresholds import fired
from migkit.explanation.trend import trend
from migkit.explanation.verdict import LIMITS, Verdict, verdict
from migkit.trace import Trace

__all__ = ["LIMITS", "Answer", "Explanation", "Verdict", "explain"]


def explain(trace: Trace, *, thresholds: bool = True) -> Explanation:
    """Answers the operator's questions about a migration, with the evidence, from its trace alone.

    Parameters: `trace`; `thresholds`, whether KubeVirt's default rules are replayed over it too, which takes most of
    the time. Returns an `Explanation`: what held it up, whether it converges, an answer a question; print its
    `paragraph` and `table`. What the trace cannot tell is answered so. Raises MigkitError when the trace holds no
    sample of a running migration.

    >>> import migkit as mk
    >>> found = mk.explain(mk.load("data/traces/stall_link.parquet"), thresholds=False)
    >>> found.limited_by, found["stalled"].answer
    (('network', 'destination'), 'yes')
    """
    if not isinstance(trace, Trace):
        raise UsageError(f"explain takes a trace (mk.load), not {type(trace).__name__}")
    seen = course(trace)
    leads_to = trend(seen)
    found = answers(seen, leads_to) + (fired(seen) if thresholds else ())
    return Explanation(trace=trace, verdict=verdict(seen, leads_to), time_s=_time_s(seen), answers=found)


def _time_s(seen: Course) -> Mapping[str, float]:
    """Where the time went; what was lost is part of the phases beside it."""
    phases = stats.phases(seen.trace).set_index("phase")["duration_s"]
    first_s = seen.ram_duration_s if seen.first_pass_s is None else seen.first_pass_s[1] - (seen.ram_s or 0.0)
    return {
        "prepare": float(phases.get("prepare", 0.0)),
        "disk": float(phases.get("disk", 0.0)),
        "first pass": first_s,
        "later passes": max(seen.ram_duration_s - first_s, 0.0),
        "post-copy": float(phases.get("post-copy", 0.0)),
        "lost": sum(w.lost_s for w in seen.windows),
    }

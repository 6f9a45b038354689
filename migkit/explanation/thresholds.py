"""Which of KubeVirt's default thresholds would have fired on a migration, and whether too early."""

from __future__ import annotations

from typing import Any

import pandas as pd

from migkit.drivers.replay import Replay, replay
from migkit.errors import MigkitError
from migkit.explanation.answer import Answer, Figure
from migkit.explanation.course import Course
from migkit.explanation.verdict import CANNOT_TELL, NO, YES
from migkit.policies import policy

POLICIES = ("kubevirt-1.8", "kubevirt-1.9", "kubevirt-1.9-stall")
# Setting QEMU's own downtime limit changes nothing.
NO_EFFECT = "initial-downtime"


def fired(course: Course) -> tuple[Answer, ...]:
    """One answer a policy."""
    return tuple(_fired(course, name) for name in POLICIES)


def _fired(course: Course, name: str) -> Answer:
    question = f"{name} acts"
    try:
        run = replay(course.trace, policy(name))
    except MigkitError as error:
        return Answer(question=question, answer=CANNOT_TELL, basis="unknowable", figures={"because": str(error)})
    acts = run.decisions[run.decisions["reason"] != NO_EFFECT]
    if acts.empty:
        return Answer(question=question, answer=NO, basis="observed", figures={"deadline_s": run.deadline_s})
    first: Any = next(acts.itertuples())
    return Answer(question=question, answer=YES, basis=str(first.basis), from_s=float(first.earliest_s),
                  until_s=float(first.latest_s), figures=_figures(course, run, first))  # fmt: skip


def _figures(course: Course, run: Replay, first: Any) -> dict[str, Figure]:
    """A decision is too early when the migration completed by itself after it."""
    too_early: str = CANNOT_TELL
    if course.by_itself and first.t_s < course.end_s:
        too_early = YES
    elif course.outcome in ("failed", "postcopy-failed"):
        too_early = NO
    return {
        "action": str(first.action),
        "argument_ms": None if pd.isna(first.argument) else float(first.argument),
        "reason": str(first.reason),
        "at_s": float(first.t_s),
        "deadline_s": float(run.deadline_s),
        "too_early": too_early,
        "completed_later_s": course.end_s - float(first.t_s) if too_early == YES else None,
    }

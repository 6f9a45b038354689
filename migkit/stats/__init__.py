"""Numbers out of traces and sweeps: tables with their units in the labels. Nothing is drawn here."""

from __future__ import annotations

from migkit.stats.migration import (
    ITERATION_COLUMNS,
    PHASE_COLUMNS,
    downtime_limits,
    downtimes,
    iterations,
    limit_changes,
    marks,
    phases,
    post_copy_start_s,
    rates,
    summary,
    switchover_start_s,
)
from migkit.stats.settings import FIGURES, by_setting

__all__ = [
    "FIGURES",
    "ITERATION_COLUMNS",
    "PHASE_COLUMNS",
    "by_setting",
    "downtime_limits",
    "downtimes",
    "iterations",
    "limit_changes",
    "marks",
    "phases",
    "post_copy_start_s",
    "rates",
    "summary",
    "switchover_start_s",
]

"""From a sweep to a setting: an objective in words, its price beside the baselines, and whether the traces suffice."""

from __future__ import annotations

from migkit.tuning.choose import Tuned, tune
from migkit.tuning.objective import DEFAULT, Objective, parse

__all__ = ["DEFAULT", "Objective", "Tuned", "parse", "tune"]

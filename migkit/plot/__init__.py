"""Pictures of traces and replays. The numbers come from `stats` and the drivers; nothing is computed here.

Every function returns the Axes it drew on and never shows them. Colours are those of Okabe and Ito (2008), told apart
by line style and marker too.
"""

from __future__ import annotations

from migkit.plot.explore import explore
from migkit.plot.migration import convergence, downtime, overview
from migkit.plot.policy import decisions
from migkit.plot.tuning import fates, heatmap, pareto, sensitivity, tuned

__all__ = [
    "convergence",
    "decisions",
    "downtime",
    "explore",
    "fates",
    "heatmap",
    "overview",
    "pareto",
    "sensitivity",
    "tuned",
]

"""Many traces under many settings."""

from __future__ import annotations

from migkit.drivers.sweep.run import MOST_REPLAYS, Executor, Sweep, sweep

__all__ = ["MOST_REPLAYS", "Executor", "Sweep", "sweep"]

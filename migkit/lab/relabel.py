"""Labels of traces that were recorded before their scenario said what it says now."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from migkit.lab.scenario import Scenario
from migkit.trace import Trace


def relabel(path: Path, scenarios: Mapping[str, Scenario]) -> dict[str, Any] | None:
    """Gives the trace in `path` the truth and the description of its scenario; samples and all other metadata stay.

    Returns the new label, or None when nothing was to be changed: the label is the same, the trace is not of a lab, or
    its scenario is none of these. Raises MigkitError, naming the file, when it cannot be read or written.
    """
    trace = Trace.load(path)
    lab = trace.meta.lab
    known = scenarios.get(lab.scenario) if lab else None
    if lab is None or known is None or known.truth is None:
        return None
    renewed = dataclasses.replace(lab, truth=known.truth.label, description=known.description)
    if renewed == lab:
        return None
    trace.replace_meta(lab=renewed).save(path, force=True)
    return known.truth.label

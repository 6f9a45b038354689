"""libvirt's job stats, by its own keys, into the columns of a row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from migkit.schema import BY_KEY

_NAMES = {key: column.name for key, column in BY_KEY.items()}


def row_from_stats(stats: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that `stats` fills, unscaled. `type` is the job type; a key that no column knows is kept as JSON
    in `extra`."""
    row: dict[str, Any] = {}
    unknown: dict[str, Any] = {}
    for key, value in stats.items():
        name = _NAMES.get(key)
        if name is not None:
            row[name] = value
        elif key == "type":
            row["job_type"] = value
        else:
            unknown[key] = value
    if unknown:
        row["extra"] = json.dumps(unknown, separators=(",", ":"), sort_keys=True)
    return row

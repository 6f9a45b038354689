"""The first decisive action of each of many settings on one trace, fast and exact.

Three ways to the same answer: the plain rules, the compiled ones, and shortcuts that a trace allows. That they agree,
and agree with `replay`, is a test.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from migkit.drivers.first.deadlines import events_firsts, plain_course, polling_firsts
from migkit.drivers.first.found import Firsts, nothing_found
from migkit.drivers.first.kernel import compiled_walks, plain_walks
from migkit.drivers.first.prepare import Prepared, prepare
from migkit.drivers.first.settings import Settings, chosen, settings
from migkit.drivers.first.stalls import stall_firsts
from migkit.policies import compiled
from migkit.policies.base import Options
from migkit.policies.versions import Rules

__all__ = ["Firsts", "Method", "Prepared", "Settings", "firsts", "is_slow", "prepare", "settings"]

Method = Literal["shortcut", "advance", "plain"]


def firsts(prepared: Prepared, rules: Rules, options: Options | Settings, *, method: Method = "shortcut") -> Firsts:
    """The first decisive action of each setting.

    Parameters: `rules` of the settings' family; `options`, with arrays of shape (settings,) or single values as
    fields, or `settings(options)` where they meet many traces; `method`, exact shortcuts, the compiled rules
    (`advance`) or the plain ones. Without numba (`is_slow`) shortcuts that need it become plain.
    Raises MigkitError for `advance` without numba.
    """
    given = options if isinstance(options, Settings) else settings(options)
    if method == "shortcut":
        return _shortcuts(prepared, rules, given)
    return (plain_walks if method == "plain" else compiled_walks)(prepared, rules, given.records)


def is_slow(rules: Rules, options: Options | Settings) -> bool:
    """Whether `firsts` walks these settings in plain Python: stall detection without numba."""
    given = options if isinstance(options, Settings) else settings(options)
    return rules == "events" and len(given.stall) > 0 and not compiled.available()


def _shortcuts(prepared: Prepared, rules: Rules, given: Settings) -> Firsts:
    """By shortcut where that is sure, else walked."""
    walks = compiled_walks if compiled.available() else plain_walks
    if not plain_course(prepared):
        return walks(prepared, rules, given.records)
    if rules == "events" and not len(given.other):
        return _stall(prepared, given)
    others = given.other if rules == "events" else np.arange(len(given.records))
    by_deadline = polling_firsts if rules == "polling" else events_firsts
    found, sure = by_deadline(prepared, chosen(given.columns, others))
    if not sure.all():
        found.put(np.flatnonzero(~sure), walks(prepared, rules, given.records[others[~sure]]))
    if len(others) == len(given.records):
        return found
    every = nothing_found(len(given.records))
    every.put(others, found)
    every.put(given.stall, _stall(prepared, given))
    return every


def _stall(prepared: Prepared, given: Settings) -> Firsts:
    if compiled.available():
        return stall_firsts(prepared, given.stall_records, given.shared)
    return plain_walks(prepared, "events", given.stall_records)

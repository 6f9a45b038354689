"""The first decisive action of each of many settings on one trace, fast and exact.

Three ways to the same answer: the plain rules, the compiled ones, and shortcuts that a trace allows. That they agree,
and agree with `replay`, is a test.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from migkit.drivers.first.kernel import compiled_walks, plain_walks, records
from migkit.drivers.first.prepare import Prepared, prepare
from migkit.policies.base import Options
from migkit.policies.versions import Rules

__all__ = ["Firsts", "Method", "Prepared", "firsts", "prepare"]

Method = Literal["shortcut", "advance", "plain"]


class Firsts(NamedTuple):
    """What each setting does first to a trace; arrays of shape (settings,).

    Attributes:
        wake: index into the wakes of the first decisive action, -1 for none: an abort, post-copy, a pause, or a
            downtime limit above the one in force on the record, when the call succeeds.
        action, argument, reason: that action, by the codes of `migkit.policies.base`; ms for a downtime limit.
        changed_wake: the first wake that set a downtime limit other than the one in force on the record, -1 for none.
        estimate_ms, ewma_bps: how long sending the rest would take by the stall rule, and the bandwidth it reckoned
            with, at that action; 0 where it has none.
    """

    wake: Any
    action: Any
    argument: Any
    reason: Any
    changed_wake: Any
    estimate_ms: Any
    ewma_bps: Any


def firsts(prepared: Prepared, rules: Rules, options: Options, *, method: Method = "shortcut") -> Firsts:
    """The first decisive action of each setting.

    Parameters: `rules` of the settings' family; `options`, with arrays of shape (settings,) or single values as
    fields; `method`, exact shortcuts, the compiled rules (`advance`) or the plain ones.
    """
    settings = records(options)
    found = (plain_walks if method == "plain" else compiled_walks)(prepared, rules, settings)
    return Firsts(*(found[name] for name in Firsts._fields))

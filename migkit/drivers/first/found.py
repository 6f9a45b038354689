"""What was found, for many settings at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from migkit.drivers.columns import Ints
from migkit.drivers.first.walk import NOWHERE


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

    wake: Ints
    action: Ints
    argument: Ints
    reason: Ints
    changed_wake: Ints
    estimate_ms: Ints
    ewma_bps: npt.NDArray[np.float64]

    def put(self, places: Ints, others: Firsts) -> None:
        """Takes over what was found for some settings, at their places here."""
        for mine, theirs in zip(self, others, strict=True):
            mine[places] = theirs


def nothing_found(count: int) -> Firsts:
    """Settings that do nothing."""
    wake, action, argument, reason, changed, estimate_ms = np.zeros((6, count), dtype=np.int64)
    wake[:], changed[:] = NOWHERE, NOWHERE
    return Firsts(wake, action, argument, reason, changed, estimate_ms, np.zeros(count))

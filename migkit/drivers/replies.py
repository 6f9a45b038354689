"""How a call of a monitor's ends over a trace: as the record tells, where it does.

One row of the record answers to one call. The source is one for the plain and the compiled form, as the rules' is
(`migkit.policies.base`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from migkit.policies import base


class Replies(NamedTuple):
    """The record's calls, by the code of their action.

    Attributes:
        first, stop: shape (codes, wakes), the first of the record's calls that may answer to one made at this wake, and
            the one behind the last.
        failed: shape (codes, calls), whether it failed.
    """

    first: Any
    stop: Any
    failed: Any

    def plain(self) -> Replies:
        """As lists."""
        return Replies(*(column.tolist() for column in self))


def replies(calls: Sequence[tuple[int, int, bool]], earliest_ns: Any, latest_ns: Any) -> Replies:
    """Lays calls, (ns, code, succeeded) in time order, beside wakes: one answers to a call that is made at a wake when
    it lies within the wake's `earliest_ns` and `latest_ns`."""
    made = Replies(
        first=np.zeros((base.CANCEL, len(earliest_ns)), dtype=np.int64),
        stop=np.zeros((base.CANCEL, len(earliest_ns)), dtype=np.int64),
        failed=np.zeros((base.CANCEL, len(calls)), dtype=bool),
    )
    for code in {code for _, code, _ in calls}:
        mine = [(at_ns, not succeeded) for at_ns, other, succeeded in calls if other == code]
        at_ns = np.array([at_ns for at_ns, _ in mine], dtype=np.int64)
        made.first[code] = np.searchsorted(at_ns, earliest_ns, side="left")
        made.stop[code] = np.searchsorted(at_ns, latest_ns, side="right")
        made.failed[code, : len(mine)] = [failed for _, failed in mine]
    return made


def refused(replies: Replies, used: Any, action: int, row: int) -> bool:
    """Whether a call at this wake fails; it does not where nothing is known. `used`: by code, how many of the record's
    calls have answered or lie behind."""
    place = max(replies.first[action][row], used[action])
    if place >= replies.stop[action][row]:
        return False
    used[action] = place + 1
    return bool(replies.failed[action][place])

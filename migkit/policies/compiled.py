"""The rules compiled by numba: the same source, over a record and arrays."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from migkit.errors import MigkitError
from migkit.policies import events, integers, polling, stall
from migkit.policies.base import SLOT_FIELDS, STATE_FIELDS

Advance = Callable[..., tuple[int, int, int, int]]

STATE_DTYPE = np.dtype([(name, "f8" if name == "ewma_bps" else "i8") for name in STATE_FIELDS])

SLOT_DTYPE = np.dtype([(name, "i8") for name in SLOT_FIELDS])


def new_state() -> Any:
    """A state for the compiled form, all zero."""
    return np.zeros(1, dtype=STATE_DTYPE).view(np.recarray)[0]


def new_slots(count: int) -> Any:
    """Slots for the compiled form."""
    return np.zeros(count, dtype=SLOT_DTYPE).view(np.recarray)


@functools.cache
def advance(rules: str) -> Advance:
    """The compiled form of `polling` or `events`. Raises MigkitError where numba is not installed."""
    try:
        import numba
    except ImportError:
        raise MigkitError("compiled rules need numba: pip install 'migkit[fast]'") from None
    _make_helpers_known()
    compiled: Advance = numba.njit({"polling": polling, "events": events}[rules].advance)
    return compiled


@functools.cache
def _make_helpers_known() -> None:
    """Compiled code calls the plain functions by their names; only wrap() differs, as compiled integers wrap."""
    from numba.extending import overload, register_jitable

    overload(integers.wrap)(lambda value: lambda value: value)
    for module in (integers, stall, polling, events):
        for name, value in vars(module).items():
            own = getattr(value, "__module__", "") == module.__name__ and callable(value)
            if own and name not in ("advance", "wrap"):
                register_jitable(value)

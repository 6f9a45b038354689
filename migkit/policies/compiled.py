"""The rules compiled by numba: the same source, over a record and arrays."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from migkit.errors import MigkitError
from migkit.policies import base, events, integers, polling, stall
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


def available() -> bool:
    """Whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


@functools.cache
def advance(rules: str) -> Advance:
    """The compiled form of `polling` or `events`. Raises MigkitError where numba is not installed."""
    made: Advance = compile_kept(_entry, rules)
    return made


def _entry(rules_advance: Advance, sources: str) -> Advance:
    def entry(state: Any, slots: Any, options: Any, wakes: Any, i0: int, i1: int) -> tuple[int, int, int, int]:
        _ = sources
        return rules_advance(state, slots, options, wakes, i0, i1)

    return entry


def compile_kept(make: Callable[[Advance, str], Any], rules: str, helpers: Sequence[ModuleType] = ()) -> Any:
    """Compiles what `make(advance, sources)` returns, a function that calls a rule's advance and functions of the
    modules `helpers`. Compiled code is kept on disk. numba only looks at the one file that the function is in: it has
    to use `sources`, which stands for all the others, so that a change in any of them is noticed.
    Raises MigkitError where numba is not installed."""
    if not available():
        raise MigkitError("compiled rules need numba: pip install 'migkit[fast]'")
    import numba

    _make_known(tuple(helpers))
    function = make({"polling": polling, "events": events}[rules].advance, _sources(tuple(helpers)))
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        # There is no place to keep it.
        return numba.njit(nogil=True)(function)


_RULES = (base, integers, stall, polling, events)


@functools.cache
def _sources(helpers: tuple[ModuleType, ...]) -> str:
    """A word that changes with any of the sources that are compiled."""
    texts = [Path(__file__).read_bytes()]
    texts += [Path(str(module.__file__)).read_bytes() for module in (*_RULES, *helpers)]
    return hashlib.sha256(b"".join(texts)).hexdigest()


@functools.cache
def _make_known(helpers: tuple[ModuleType, ...]) -> None:
    """Compiled code calls the plain functions by their names; only wrap() differs, as compiled integers wrap."""
    from numba.extending import overload, register_jitable

    for module in (*_RULES, *helpers):
        for value in list(vars(module).values()):
            if not inspect.isfunction(value) or value.__module__ != module.__name__ or value in _KNOWN:
                continue
            _KNOWN.add(value)
            if value is integers.wrap:
                overload(value)(lambda value: lambda value: value)
            else:
                register_jitable(forceinline=True)(value)


_KNOWN: set[Callable[..., Any]] = set()

"""What is to be made small and what must hold, in the user's words, over the figures of `stats.by_setting`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from migkit.errors import UsageError, unknown

DEFAULT: Final = "minimise missed_ratio, regret, time_to_action where false_abort_ratio == 0"

_COMPARE: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "<=": operator.le, ">=": operator.ge, "==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_CONDITION: Final = re.compile(r"\s*([A-Za-z_][\w]*)\s*(<=|>=|==|!=|<|>|=)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*(%?)\s*")
_QUANTILE: Final = re.compile(r"_p\d+(?=_|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One figure that is to be small, or large where `sign` is -1."""

    column: str
    sign: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One figure that must stay within a limit. A ratio of nothing and a pause that nobody had break no limit; any
    other unknown figure does."""

    column: str
    compare: str
    limit: float

    def holds(self, figures: pd.DataFrame) -> Any:
        """Shape (settings,)."""
        values = figures[self.column].to_numpy(dtype=float)
        held = _COMPARE[self.compare](values, self.limit)
        vacuous = self.column.endswith("_ratio") or self.column.startswith("implied_downtime")
        return np.isnan(values) | held if vacuous else held

    def __str__(self) -> str:
        return f"{self.column} {self.compare} {self.limit:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """Goals in order of their weight, the first decides, the next ones break ties; and conditions that all must hold.

    >>> str(parse("minimise time_to_action where implied_downtime_p95_ms <= 900"))
    'minimise time_to_action_p50_s where implied_downtime_p95_ms <= 900'
    """

    goals: tuple[Goal, ...]
    conditions: tuple[Condition, ...] = ()

    def __str__(self) -> str:
        words = ", ".join(("minimise " if g.sign > 0 else "maximise ") + g.column for g in self.goals)
        words = words.replace(", minimise ", ", ") if all(g.sign > 0 for g in self.goals) else words
        limits = " and ".join(map(str, self.conditions))
        return words + (f" where {limits}" if limits else "")

    @property
    def columns(self) -> tuple[str, ...]:
        """Every figure it speaks of, once."""
        names = [goal.column for goal in self.goals] + [condition.column for condition in self.conditions]
        return tuple(dict.fromkeys(names))

    def admitted(self, figures: pd.DataFrame) -> Any:
        """Whether all conditions hold, shape (settings,)."""
        held = np.ones(len(figures), dtype=bool)
        for condition in self.conditions:
            held &= condition.holds(figures)
        return held

    def order(self, figures: pd.DataFrame, ties: Any = None) -> Any:
        """The places of the settings from best to worst: those that keep the conditions first. An unknown figure
        comes after every known one; equal settings are ordered by `ties`, small first, else stay in their order."""
        keys = [self.goal_values(figures, goal) for goal in self.goals]
        last = np.zeros(len(figures)) if ties is None else np.asarray(ties)
        return np.lexsort([last, *reversed(keys), ~self.admitted(figures)])

    def goal_values(self, figures: pd.DataFrame, goal: Goal) -> Any:
        """Smaller is better, unknown is infinite, shape (settings,). Rounded: what differs in the ninth digit ties."""
        values = figures[goal.column].to_numpy(dtype=float) * goal.sign
        return np.where(np.isnan(values), np.inf, np.round(values, 9))


def parse(text: str | None = None, *, known: Iterable[str] | None = None) -> Objective:
    """`minimise FIGURE[, FIGURE...] [where FIGURE <= NUMBER and ...]`, with the figures of `stats.by_setting`.

    A figure may be named without its quantile and unit: `time_to_action` is its median. Raises UsageError for what
    cannot be read or is no figure, naming the nearest.
    """
    names = list(known) if known is not None else list(_figures())
    words = " ".join((text or DEFAULT).split())
    head, _, tail = words.partition(" where ")
    goals = _goals(head, names)
    conditions = tuple(_condition(part, names) for part in re.split(r"\s+and\s+|,", tail)) if tail else ()
    return Objective(goals=goals, conditions=conditions)


def _figures() -> Sequence[str]:
    from migkit.stats.settings import FIGURES

    return FIGURES


def _goals(text: str, names: Sequence[str]) -> tuple[Goal, ...]:
    found, sign = [], 0
    for part in text.split(","):
        words = part.split()
        if words and words[0].lower() in ("minimise", "minimize", "maximise", "maximize"):
            sign = 1 if words[0].lower().startswith("min") else -1
            words = words[1:]
        if not sign or len(words) != 1:
            raise UsageError(f"{text!r}: write 'minimise FIGURE' (or maximise), e.g. 'minimise time_to_action'")
        found.append(Goal(column=_column(words[0], names), sign=sign))
    return tuple(found)


def _condition(text: str, names: Sequence[str]) -> Condition:
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise UsageError(f"{text.strip()!r}: write a condition as FIGURE <= NUMBER, e.g. false_abort_ratio == 0")
    name, sign, number, percent = match.groups()
    try:
        limit = float(number) / (100 if percent else 1)
    except ValueError:
        raise UsageError(f"{text.strip()!r}: {number} is not a number") from None
    return Condition(column=_column(name, names), compare="==" if sign == "=" else sign, limit=limit)


def _column(name: str, names: Sequence[str]) -> str:
    """A figure by its name, or by its name without quantile and unit: then the median, else the only one."""
    if name in names:
        return name
    for candidate in names:
        short = _QUANTILE.sub("", candidate)
        if "_p50" in candidate and name in (short, short.rsplit("_", 1)[0]):
            return candidate
        if name == candidate.removesuffix("_ratio"):
            return candidate
    shorts = {_QUANTILE.sub("", candidate).rsplit("_", 1)[0] for candidate in names if "_p50" in candidate}
    raise unknown("figure", name, [*names, *shorts])

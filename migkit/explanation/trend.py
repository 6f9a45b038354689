"""Where the passes of a pre-copy lead: their level, their slope, and how much of what they send is dirtied anew.

A pass ends when less is left than the downtime limit lets through, so the troughs of the remaining data mean nothing:
the level of the peaks decides (QEMU migration/ram.c, migration_completion_precopy and bitmap syncs).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from migkit.explanation.course import Course

Floats = npt.NDArray[np.float64]

# The passes that show where it leads: the last ones, at least so many, and at least this share of the time.
_RECENT_PASSES = 5
_RECENT_SHARE = 1 / 3
# A pass needs so many samples before its first one may be taken for its peak.
_SAMPLES_A_PASS = 3
# Of so many passes the slope can be told although each one's peak was seen by chance.
_MANY_PASSES = 12
# A change of the level smaller than this, over the passes looked at, is none.
_FLAT_RATIO = 0.05
# A fall that shrinks at least so much from pass to pass, and is small by now, comes to rest: where each of the last
# peaks makes the next one along a line, as well as this.
_SHRINKING_RATIO, _SMALL_FALL_RATIO = 0.8, 0.05
_FEWEST_PEAKS, _MOST_PEAKS, _ON_A_LINE_R2 = 4, 8, 0.97
# It is not followed further down than this share of what has been seen.
_FOLLOWED_RATIO = 0.15
# A level is reached by the first peak from which on nearly all stay within this of it.
_SETTLED_RATIO, _NEARLY_ALL_RATIO = 0.25, 0.8
# Rates of shorter passes are mostly noise of the sampling.
_LONG_ENOUGH_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """What the last passes before the first help show.

    `level_bytes` is the median of their peaks, None where samples are too far apart to see peaks; `slope_bps` its
    change a second (negative: falling) with its 90 % interval `slope_low_bps` to `slope_high_bps`; `direction` falling,
    flat, rising, or None below three passes; `settled_s` since when the peaks stay at that level;
    `rests_at_bytes` where a slowing fall would come to
    rest, if that is well above what the downtime limit lets through.
    `dirty_ratio` is dirtied over sent; `dirty_bps` its rate, `least_dirty_bps` the highest that any pass showed: the
    guest writes at least so fast. `pause_s` is how long the guest would have to stand still for the rest to be sent,
    between `pause_low_s` and `pause_high_s`.
    """

    passes: int
    since_s: float
    until_s: float
    level_bytes: float | None
    slope_bps: float
    slope_low_bps: float
    slope_high_bps: float
    direction: str | None
    settled_s: float | None
    rests_at_bytes: float | None
    dirty_ratio: float
    dirty_bps: float
    least_dirty_bps: float
    bandwidth_bps: float
    pause_s: float
    pause_low_s: float
    pause_high_s: float


def trend(course: Course) -> Trend | None:
    """The trend of a migration's pre-copy, or None where no pass after the first was closed before the first help."""
    later = course.passes[course.passes["iteration"] >= 2]
    clean = later[later["clean"]]
    used = clean if len(clean) >= 3 or len(clean) == len(later) else later
    if used.empty:
        return None
    recent = _recent(used)
    span_s = float(recent["duration_s"].sum())
    new, sent = float(recent["newly_dirty_bytes"].sum()), float(recent["sent_pages_bytes"].sum())
    if span_s <= 0 or sent <= 0:
        return None
    resolved = float(recent["samples"].median()) >= _SAMPLES_A_PASS and _complete(recent)
    starts, peaks = recent["start_s"].to_numpy(float), recent["remaining_start_bytes"].to_numpy(float)
    number = recent["iteration"].to_numpy(np.int64)
    traced = resolved or len(recent) >= _MANY_PASSES
    slope, low, high = _slope(starts, peaks) if traced else (np.nan, np.nan, np.nan)
    level = float(np.median(peaks)) if resolved else None
    pause = _pause_s(course, recent, level, sent / span_s)
    long = used[used["duration_s"] >= _LONG_ENOUGH_S]
    rates = (long["newly_dirty_bytes"] / long["duration_s"]).to_numpy(float)
    return Trend(
        passes=len(recent),
        since_s=float(starts[0]),
        until_s=float(starts[-1] + recent["duration_s"].iloc[-1]),
        level_bytes=level,
        slope_bps=slope,
        slope_low_bps=low,
        slope_high_bps=high,
        direction=_direction(starts, peaks, slope, low, high) if traced else None,
        settled_s=None if level is None else _settled_s(used, level),
        rests_at_bytes=_rests_at(number, peaks, 2 * course.downtime_limit_ms / 1000 * sent / span_s)
        if resolved
        else None,
        dirty_ratio=new / sent,
        dirty_bps=new / span_s,
        least_dirty_bps=float(np.max(rates, initial=new / span_s)),
        bandwidth_bps=sent / span_s,
        pause_s=pause[0],
        pause_low_s=pause[1],
        pause_high_s=pause[2],
    )


def _recent(passes: pd.DataFrame) -> pd.DataFrame:
    start = passes["start_s"].to_numpy(float)
    from_s = start[-1] - (start[-1] - start[0]) * _RECENT_SHARE
    return passes.iloc[min(int(np.searchsorted(start, from_s)), max(len(passes) - _RECENT_PASSES, 0)) :]


def _complete(passes: pd.DataFrame) -> bool:
    """Whether no pass between them was missed by the samples."""
    number = passes["iteration"].to_numpy(int)
    return bool(number[-1] - number[0] + 1 <= 1.2 * len(number))


def _slope(t: Floats, value: Floats) -> tuple[float, float, float]:
    """Median of the pairwise slopes, and its 90 % interval (Sen 1968, equation 2.6 with Kendall's variance)."""
    a, b = np.triu_indices(len(t), 1)
    if not len(a):
        return np.nan, np.nan, np.nan
    pairs = np.sort((value[b] - value[a]) / (t[b] - t[a]))
    n = len(t)
    spread = 1.645 * np.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    low = int(max(np.floor((len(pairs) - spread) / 2), 0))
    high = int(min(np.ceil((len(pairs) + spread) / 2), len(pairs) - 1))
    return float(np.median(pairs)), float(pairs[low]), float(pairs[high])


def _direction(t: Floats, peaks: Floats, slope: float, low: float, high: float) -> str | None:
    if len(t) < 3:
        return None
    change = slope * (t[-1] - t[0]) / max(float(np.median(peaks)), 1.0)
    if high < 0 and change < -_FLAT_RATIO:
        return "falling"
    return "rising" if low > 0 and change > _FLAT_RATIO else "flat"


def _settled_s(passes: pd.DataFrame, level_bytes: float) -> float | None:
    near = (passes["remaining_start_bytes"] / level_bytes - 1).abs().to_numpy(float) <= _SETTLED_RATIO
    return since_s(passes, near)


def since_s(passes: pd.DataFrame, holds: npt.NDArray[np.bool_]) -> float | None:
    """The start of the first pass that holds, and after which nearly all others do: short ones scatter."""
    share = np.cumsum(holds[::-1])[::-1] / np.arange(len(holds), 0, -1)
    found = np.flatnonzero(holds & (share >= _NEARLY_ALL_RATIO))
    return float(passes["start_s"].iloc[found[0]]) if len(found) else None


def _rests_at(number: npt.NDArray[np.int64], peaks: Floats, fits_bytes: float) -> float | None:
    """The limit of a fall that slows: what is left at the start of a pass decides what is dirtied in it, and so what is
    left at the next; where the line through these pairs meets the diagonal, nothing changes any more."""
    gaps = np.flatnonzero(np.diff(number) != 1)
    last = peaks[gaps[-1] + 1 if len(gaps) else 0 :][-_MOST_PEAKS:]
    if len(last) < _FEWEST_PEAKS or last[-2] - last[-1] > _SMALL_FALL_RATIO * last[-1]:
        return None
    before, after = last[:-1] - last[-1], last[1:] - last[-1]
    spread = float(((before - before.mean()) ** 2).sum() * ((after - after.mean()) ** 2).sum())
    common = float(((before - before.mean()) * (after - after.mean())).sum())
    if spread <= 0 or common <= 0 or common**2 < _ON_A_LINE_R2 * spread:
        return None
    shrinks = common / float(((before - before.mean()) ** 2).sum())
    if shrinks > _SHRINKING_RATIO:
        return None
    rests = float(last[-1] + (after.mean() - shrinks * before.mean()) / (1 - shrinks))
    followed = abs(rests - last[-1]) <= _FOLLOWED_RATIO * (last[0] - last[-1])
    return rests if followed and rests > fits_bytes else None


def _pause_s(course: Course, recent: pd.DataFrame, level: float | None, flow_bps: float) -> tuple[float, float, float]:
    """From the level where it is seen, else from how long a pass takes: it sends all but what the limit allows."""
    number, start = recent["iteration"].to_numpy(int), recent["start_s"].to_numpy(float)
    passed = number[-1] - number[0] + 1
    mean_s = (start[-1] + float(recent["duration_s"].iloc[-1]) - start[0]) / max(passed, 1)
    limit_s = course.downtime_limit_ms / 1000
    value = level / flow_bps if level is not None else mean_s + limit_s / 2
    return value, min(mean_s, value), max(mean_s + limit_s, value)

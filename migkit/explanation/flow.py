"""How the data flowed: bandwidth cell by cell, and the windows in which nothing, or less than allowed, was sent."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from migkit.trace import Trace

Floats = npt.NDArray[np.float64]
Limits = list[tuple[float, float | None]]

# Nothing moved for so long: a stall. Shorter ones are a busy machine, or QEMU between two passes.
STALL_S = 2.0
# A path is slow where it carries less than this of what it may, or of what it usually carries, for so long.
_SLOW_RATIO = 0.7
_SLOW_RATIO_WITHOUT_LIMIT = 0.5
_SLOW_S = 4.0
# A slow window that is one single stall is that stall; where bytes trickle between pauses it is slow.
_ONE_STALL_RATIO = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A time in which less was sent than could be. `kind` is stall (nothing at all) or slow. It began within
    `spread_s` before `start_s` and ended within `spread_s` before `end_s`; `open_end` when the recording ends in it.
    `lost_s`: how much longer the migration took for it; `longest_pause_s`: the longest time in it without any data."""

    kind: str
    start_s: float
    end_s: float
    spread_s: float
    moved_bytes: float
    lost_s: float
    longest_pause_s: float
    limit_bps: float | None
    open_end: bool

    @property
    def duration_s(self) -> float:
        """From its start to its end."""
        return self.end_s - self.start_s

    @property
    def bandwidth_bps(self) -> float:
        """What was sent a second in it."""
        return self.moved_bytes / self.duration_s if self.duration_s > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """`interval_s` between two samples; `bandwidth_bps` as it usually was outside the windows; `best_bps`
    the most that was allowed, or carried where no limit is known; `limits` over time; `skimming_ratio` the share of
    time in which mostly pages of zeros were passed over."""

    interval_s: float
    samples: int
    bandwidth_bps: float
    best_bps: float
    limits: Limits
    skimming_ratio: float
    windows: tuple[Window, ...]


def measure(trace: Trace, limits: Limits, until_s: float) -> Flow:
    """The flow up to `until_s` (switchover, post-copy or the end), and stalls anywhere."""
    t, sent, pages = _series(trace)
    interval_s = float(np.median(np.diff(t))) if len(t) > 1 else np.inf
    stalls = _stalls(t, sent, interval_s)
    edges, rate, page_rate = _cells(t, sent, pages, max(1.0, interval_s), until_s)
    allowed = np.array([_limit_at(limits, moment) for moment in edges[:-1]], dtype=np.float64)
    usual = float(np.quantile(rate, 0.9)) if len(rate) else 0.0
    reference = np.where(np.isfinite(allowed), allowed, usual)
    ratio = np.where(np.isfinite(allowed), _SLOW_RATIO, _SLOW_RATIO_WITHOUT_LIMIT)
    effective = np.maximum(rate, page_rate)
    slow = effective < ratio * reference
    found = [_window(run, edges, rate, reference, allowed, interval_s) for run in _runs(slow)]
    kept = [w for w in found if w.duration_s >= _SLOW_S and w.lost_s >= STALL_S]
    skimming = (rate < ratio * reference) & ~slow
    windows = sorted(_merged(kept, stalls), key=lambda w: w.start_s)
    flowing = [not any(w.start_s < b and a < w.end_s for w in windows) for a, b in itertools.pairwise(edges)]
    usually = rate[np.array(flowing, dtype=bool)] if any(flowing) else rate
    highest = [limit for _, limit in limits]
    best = max((limit for limit in highest if limit), default=usual) if all(highest) else usual
    return Flow(
        interval_s=interval_s,
        samples=len(t),
        bandwidth_bps=float(np.median(usually)) if len(rate) else np.nan,
        best_bps=best,
        limits=limits,
        skimming_ratio=float(skimming.mean()) if len(rate) else 0.0,
        windows=tuple(windows),
    )


def _series(trace: Trace) -> tuple[Floats, Floats, Floats]:
    """Time, bytes sent (disks and memory) and bytes of the pages passed, from the first byte on."""
    sent = trace.column("data_processed_bytes")
    if not np.isfinite(sent).any():
        sent = trace.column("memory_processed_bytes")
    page = trace.column("memory_page_size_bytes")
    kinds = ("memory_normal_pages", "memory_constant_pages", "compression_pages")
    pages = sum((np.nan_to_num(trace.column(name)) for name in kinds), np.zeros(len(page))) * np.nan_to_num(page)
    known = trace.active & np.isfinite(sent) & (sent > 0)
    return trace.t_s[known], sent[known], pages[known]


def _limit_at(limits: Limits, t_s: float) -> float:
    held = [limit for begins, limit in limits if begins <= t_s]
    return np.nan if not held or held[-1] is None else held[-1]


def _cells(t: Floats, sent: Floats, pages: Floats, width_s: float, until_s: float) -> tuple[Floats, Floats, Floats]:
    """Cells of equal width with the bytes and the page bytes a second in each."""
    last = min(t[-1], until_s) if len(t) else 0.0
    if len(t) < 2 or last - t[0] < width_s:
        return np.zeros(1), np.empty(0), np.empty(0)
    edges = np.arange(t[0], last + 1e-9, width_s)
    return edges, np.diff(np.interp(edges, t, sent)) / width_s, np.diff(np.interp(edges, t, pages)) / width_s


def _runs(flags: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(first, behind the last) of each run; runs one cell apart are one."""
    bridged = flags.copy()
    bridged[1:-1] |= flags[:-2] & flags[2:]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], bridged, [False]]).astype(int)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _window(
    run: tuple[int, int], edges: Floats, rate: Floats, reference: Floats, allowed: Floats, interval_s: float
) -> Window:
    a, b = run
    width_s = float(edges[1] - edges[0])
    held = float(np.median(allowed[a:b]))
    return Window(
        kind="slow",
        start_s=float(edges[a]),
        end_s=float(edges[b]),
        spread_s=max(width_s, interval_s),
        moved_bytes=float(rate[a:b].sum() * width_s),
        lost_s=float(np.clip(1 - rate[a:b] / reference[a:b], 0, None).sum() * width_s),
        longest_pause_s=0.0,
        limit_bps=held if np.isfinite(held) else None,
        open_end=b == len(rate),
    )


def _stalls(t: Floats, sent: Floats, interval_s: float) -> list[Window]:
    """Runs of samples over which nothing was sent, long enough, and seen by at least three samples."""
    moved = np.flatnonzero(np.diff(sent) != 0) + 1
    firsts, behind = np.concatenate([[0], moved]), np.concatenate([moved, [len(t)]])
    found = []
    for first, after in zip(firsts, behind, strict=True):
        if after - first < 3 or t[after - 1] - t[first] < STALL_S:
            continue
        open_end = after == len(t)
        end_s = float(t[after - 1] if open_end else t[after])
        duration_s = end_s - float(t[first])
        found.append(Window(kind="stall", start_s=float(t[first]), end_s=end_s, spread_s=interval_s,
                            moved_bytes=0.0, lost_s=duration_s, longest_pause_s=duration_s, limit_bps=None,
                            open_end=bool(open_end)))  # fmt: skip
    return found


def _merged(slow: list[Window], stalls: list[Window]) -> list[Window]:
    """Slow windows that are no single stall, with their longest pause, and the stalls outside them."""
    trickling = [_with_pause(w, stalls) for w in slow if not any(_is_that_stall(w, s) for s in stalls)]
    return trickling + [s for s in stalls if not any(_shared_s(w, s) > 0 for w in trickling)]


def _is_that_stall(slow: Window, stall: Window) -> bool:
    """A stall makes the cells at its ends slow as well."""
    return _shared_s(slow, stall) >= _ONE_STALL_RATIO * max(slow.duration_s - 2 * slow.spread_s, 0.0)


def _with_pause(slow: Window, stalls: list[Window]) -> Window:
    pauses = [s.duration_s for s in stalls if _shared_s(slow, s) > 0]
    return dataclasses.replace(slow, longest_pause_s=max(pauses, default=0.0))


def _shared_s(a: Window, b: Window) -> float:
    return min(a.end_s, b.end_s) - max(a.start_s, b.start_s)

"""The figures of an answer as one line of evidence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from migkit.explanation.answer import Answer
from migkit.explanation.verdict import CANNOT_TELL, NO, YES
from migkit.units import format_bps, format_bytes, format_ms, format_s, one_line


def evidence(answer: Answer) -> str:
    """The figures of an answer as one line."""
    write = _EVIDENCE.get(answer.question, _threshold)
    return write(answer, dict(answer.figures))


def at(moment_s: float | None) -> str:
    """A moment since the job began."""
    return "?" if moment_s is None else length(moment_s)


def length(duration_s: Any) -> str:
    """To a tenth: a recorder's clock is no better."""
    tenths = round(float(duration_s), 1)
    return format_s(tenths) if abs(tenths) >= 0.1 else format_ms(round(1000 * float(duration_s)))


def window(answer: Answer) -> str:
    """When it was so."""
    return f"from {at(answer.from_s)} to {at(answer.until_s)}"


# What each answer rests on.


def _remaining(answer: Answer, f: dict[str, Any]) -> str:
    if "slope_bytes_a_minute" not in f:
        passes = int(f["passes"])
        if answer.answer == YES:
            return f"it ended after {count(passes, 'pass', 'passes')}"
        return f"{count(passes, 'pass', 'passes')} over: three after the first are needed to see a trend"
    level = f["level_bytes"]
    start = f"passes began with {format_bytes(level)}" if level is not None else "peaks not seen, samples too far apart"
    low, high = f["slope_low_bytes_a_minute"], f["slope_high_bytes_a_minute"]
    change = f"{_signed(f['slope_bytes_a_minute'])} a minute ({_signed(low)} to {_signed(high)})"
    parts = [f"{start}; {change}, over {count(int(f['passes']), 'pass', 'passes')} {window(answer)}"]
    if f["settled_s"] is not None and answer.answer == NO:
        parts.append(f"at this level since {at(f['settled_s'])}")
    if f["rests_at_bytes"] is not None:
        parts.append(f"the fall slows and would rest at about {format_bytes(max(f['rests_at_bytes'], 0))}")
    elif f["fits_after_s"] is not None:
        low, high = at(f["fits_after_low_s"]), at(f["fits_after_high_s"])
        parts.append(f"at this pace it fits the downtime limit at about {at(f['fits_after_s'])} ({low} to {high})")
    return "; ".join(parts)


def _signed(value_bytes: float) -> str:
    return ("+" if value_bytes > 0 else "") + format_bytes(value_bytes)


def count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _dirty(answer: Answer, f: dict[str, Any]) -> str:
    if "dirty_ratio" not in f:
        rate = f["first_pass_dirty_bps"]
        known = (
            "no pass was closed" if rate is None else f"{format_bps(rate)} dirtied in the first pass, no other closed"
        )
        return known + (", and it ended" if answer.answer == NO else "")
    said = f"{format_bps(f['dirty_bps'])} newly dirtied against {format_bps(f['bandwidth_bps'])} sent"
    percent = f"{said}: {100 * f['dirty_ratio']:.0f} %"
    if answer.answer == YES:
        return (f"{percent} since {at(answer.from_s)}; the guest writes at least {format_bps(f['least_dirty_bps'])}, "
                f"how much more cannot be seen (a page counts once a pass)")  # fmt: skip
    above = f"; faster than it was sent for {length(f['above_s'])}" if f["above_s"] >= 1 else ""
    return percent + above


def _stall(answer: Answer, f: dict[str, Any]) -> str:
    if answer.answer == CANNOT_TELL:
        return f"{count(int(f['samples']), 'sample', 'samples')} with data"
    if answer.answer == NO:
        if f["trickled"] == YES:
            return f"pauses of up to {length(f['none_longer_than_s'])}, between them data trickled: a slow path"
        return f"none longer than {length(f['none_longer_than_s'])}; shorter ones would not be seen"
    end = ", when the recording ends" if f["to_the_end"] == YES else ""
    more = f"; {int(f['stalls'])} stalls, {length(f['total_s'])} in all" if f["stalls"] > 1 else ""
    lasted, spread = length(f["longest_s"]), format_ms(round(1000 * f["spread_s"]))
    return f"nothing moved for {lasted} {window(answer)}{end} (each end within {spread}){more}"


def _slow(answer: Answer, f: dict[str, Any]) -> str:
    limit = "no limit is known" if f["limit_bps"] is None else f"the limit is {format_bps(f['limit_bps'])}"
    bandwidth = f["bandwidth_bps"]
    carried = f"{format_bps(bandwidth)} carried" if bandwidth == bandwidth else "nothing carried long enough to measure"
    if answer.answer != YES:
        return f"{carried}, {limit}"
    lost = f"{length(f['lost_s'])} lost by it"
    return f"{carried} {window(answer)}, {limit}; {lost}"


def _post_copy(answer: Answer, f: dict[str, Any]) -> str:
    if f.get("used") == YES:
        what = "it ended" if answer.answer == YES else "it did not end"
        return f"switched at {at(answer.from_s)}; {what}, {length(f['took_s'])} later"
    allowed = {YES: "", NO: "; its flags did not allow it"}.get(
        str(f["allowed"]), "; whether it was allowed is unknown"
    )
    if f.get("needed") == NO:
        return "it ended without"
    if f.get("has_vfio") == YES:
        return "the guest has assigned devices"
    if f.get("flows") == NO:
        return "nothing arrives on a broken path, and a guest in post-copy would be lost with it" + allowed
    if f["at_most_s"] is None:
        return "no pass after the first was over: what is left at a switch is unknown" + allowed
    return f"at most {format_ms(1000 * f['at_most_s'])} of sending, if the bandwidth holds{allowed}"


def _auto_converge(answer: Answer, f: dict[str, Any]) -> str:
    if "throttle_percent" in f:
        reached = f"it throttled the guest up to {f['throttle_percent']:.0f} %"
        return f"{reached}, and it ended" if answer.answer == YES else f"{reached}; it had not ended yet"
    if f.get("needed") == NO:
        return "it ended without"
    if f["at_least_percent"] is None:
        return "the passes do not show yet whether it would be needed"
    least = f"by at least {f['at_least_percent']:.0f} %" if f["at_least_percent"] >= 1 else "by an unknown amount"
    return f"only if the guest writes less the less processor it has; it would have to write less {least}"


def _helped(answer: Answer, f: dict[str, Any]) -> str:
    return "; ".join(deeds(f)) or "nothing was done to it"


def deeds(f: dict[str, Any]) -> list[str]:
    """What was done to it, each with its moment."""
    told = []
    for number in range(1, 1 + sum(name.startswith("what_") for name in f)):
        kind, when = f[f"what_{number}"], at(f[f"at_{number}_s"])
        if f"to_{number}_ms" in f:
            told.append(
                f"downtime limit {format_ms(f[f'from_{number}_ms'])} to {format_ms(f[f'to_{number}_ms'])} at {when}"
            )
        elif kind == "bandwidth":
            after = f.get(f"to_{number}_bps")
            told.append(f"bandwidth raised to {format_bps(after) if after else 'no limit'} at {when}")
        else:
            told.append(f"{kind} at {when}")
    return told


def _throttle(answer: Answer, f: dict[str, Any]) -> str:
    if answer.answer == NO:
        return "auto-converge did not throttle"
    first, highest = f"{f['first_percent']:.0f} %", f"{f['highest_percent']:.0f} %"
    said = (first if first == highest else f"{first} rising to {highest}") + f", for {length(f['throttled_s'])}"
    if f["largest_gap_ms"] is None:
        return f"{said}; without a heartbeat its cost to the guest is unknown"
    usual = f", 99 of 100 gaps below {format_ms(f['p99_gap_ms'])}" if f["p99_gap_ms"] is not None else ""
    return f"{said}; longest freeze of the guest {format_ms(f['largest_gap_ms'])}{usual}"


def _disk_line(answer: Answer, f: dict[str, Any]) -> str:
    if answer.answer != YES:
        return "asked for, none seen" if f["asked"] == YES else "no disk data"
    return (f"{format_bytes(f['disk_bytes'])}, {f['bytes_percent']:.0f} % of the bytes; "
            f"{length(f['disk_s'])}, {f['time_percent']:.0f} % of the time")  # fmt: skip


def _failed(answer: Answer, f: dict[str, Any]) -> str:
    code = f" (libvirt error {f['error_code']})" if f["error_code"] is not None else ""
    if answer.answer == CANNOT_TELL:
        return f"its end was not seen ({f['outcome']})"
    error = f": {one_line(str(f['error']))}{code}" if f["error"] else ""
    return f"{f['outcome']} at {at(answer.until_s)}{error}"


def _threshold(answer: Answer, f: dict[str, Any]) -> str:
    if answer.answer == CANNOT_TELL:
        return str(f["because"])
    if answer.answer == NO:
        return f"no rule fires; completion deadline {format_s(f['deadline_s'])}" if f["deadline_s"] else "no rule fires"
    early, late = at(answer.from_s), at(answer.until_s)
    said = acts(f) + (f" ({early} to {late})" if early != late else "")
    if f["too_early"] == YES:
        return f"{said}: {too_early(f)}"
    return said + ("; whether that is too early is unknown" if f["too_early"] == CANNOT_TELL else "")


def too_early(f: dict[str, Any]) -> str:
    """What became of it without that."""
    word = "too early" if f["action"] == "abort" else "not needed"
    return f"{word}, it completed by itself {length(f['completed_later_s'])} later"


def acts(f: dict[str, Any]) -> str:
    """What a rule does, when and why."""
    action = f["action"].replace("_", " ").replace("post copy", "post-copy")
    argument = "" if f["argument_ms"] is None else f" to {format_ms(f['argument_ms'])}"
    return f"{action}{argument} at {at(f['at_s'])}, {_REASONS.get(f['reason'], f['reason'])}"


_REASONS = {
    "timeout": "completion deadline",
    "stuck": "no progress",
    "stall-abort": "stall detected, the rest too much for a pause",
    "stall-soft-stop": "stall detected, the rest small enough for a pause",
}


_EVIDENCE: dict[str, Callable[[Answer, dict[str, Any]], str]] = {
    "remaining falls": _remaining,
    "dirty rate too high": _dirty,
    "stalled": _stall,
    "slow path": _slow,
    "post-copy would help": _post_copy,
    "auto-converge would help": _auto_converge,
    "helped": _helped,
    "throttled": _throttle,
    "disk copied": _disk_line,
    "failed": _failed,
}

"""An explanation in words: one line of evidence an answer, and a paragraph for somebody who was just woken up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from migkit.explanation.answer import Answer, Explanation
from migkit.explanation.verdict import CANNOT_TELL, NO, YES
from migkit.units import format_bps, format_bytes, format_ms, format_s


def evidence(answer: Answer) -> str:
    """The figures of an answer as one line."""
    write = _EVIDENCE.get(answer.question, _threshold)
    return write(answer, dict(answer.figures))


def paragraph(found: Explanation) -> str:
    """What happened, what held it up, what could have been done, what a threshold would have done."""
    parts = (_outcome(found), _verdict(found), _fault(found), _race(found), _remedy(found), _help(found), _disk(found),
             _converges(found), _thresholds(found), _caveat(found))  # fmt: skip
    return " ".join(part for part in parts if part)


def _at(moment_s: float | None) -> str:
    return "?" if moment_s is None else _length(moment_s)


def _length(duration_s: Any) -> str:
    """To a tenth: a recorder's clock is no better."""
    return format_s(round(float(duration_s), 1))


def _window(answer: Answer) -> str:
    return f"from {_at(answer.from_s)} to {_at(answer.until_s)}"


# What each answer rests on.


def _remaining(answer: Answer, f: dict[str, Any]) -> str:
    if "slope_bytes_a_minute" not in f:
        passes = int(f["passes"])
        if answer.answer == YES:
            return f"it ended after {_count(passes, 'pass', 'passes')}"
        return f"{_count(passes, 'pass', 'passes')} over: three after the first are needed to see a trend"
    level = f["level_bytes"]
    start = f"passes began with {format_bytes(level)}" if level is not None else "peaks not seen, samples too far apart"
    low, high = f["slope_low_bytes_a_minute"], f["slope_high_bytes_a_minute"]
    change = f"{_signed(f['slope_bytes_a_minute'])} a minute ({_signed(low)} to {_signed(high)})"
    parts = [f"{start}; {change}, over {_count(int(f['passes']), 'pass', 'passes')} {_window(answer)}"]
    if f["settled_s"] is not None and answer.answer == NO:
        parts.append(f"at this level since {_at(f['settled_s'])}")
    if f["rests_at_bytes"] is not None:
        parts.append(f"the fall slows and would rest at about {format_bytes(max(f['rests_at_bytes'], 0))}")
    elif f["fits_after_s"] is not None:
        least = f["fits_after_at_least_s"]
        parts.append(f"at this pace within the downtime limit at {_at(f['fits_after_s'])}, not before {_at(least)}")
    return "; ".join(parts)


def _signed(value_bytes: float) -> str:
    return ("+" if value_bytes > 0 else "") + format_bytes(value_bytes)


def _count(number: int, one: str, many: str) -> str:
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
        return (f"{percent} since {_at(answer.from_s)}; the guest writes at least {format_bps(f['least_dirty_bps'])}, "
                f"how much more cannot be seen (a page counts once a pass)")  # fmt: skip
    above = f"; faster than it was sent for {_length(f['above_s'])}" if f["above_s"] >= 1 else ""
    return percent + above


def _stall(answer: Answer, f: dict[str, Any]) -> str:
    if answer.answer == CANNOT_TELL:
        return f"{_count(int(f['samples']), 'sample', 'samples')} with data"
    if answer.answer == NO:
        if f["trickled"] == YES:
            return f"pauses of up to {_length(f['none_longer_than_s'])}, between them data trickled: a slow path"
        return f"none longer than {_length(f['none_longer_than_s'])}; shorter ones would not be seen"
    end = ", when the recording ends" if f["to_the_end"] == YES else ""
    more = f"; {int(f['stalls'])} stalls, {_length(f['total_s'])} in all" if f["stalls"] > 1 else ""
    length = _length(f["longest_s"])
    return f"nothing moved for {length} {_window(answer)}{end} (each end within {format_ms(round(1000 * f['spread_s']))}){more}"


def _slow(answer: Answer, f: dict[str, Any]) -> str:
    limit = "no limit is known" if f["limit_bps"] is None else f"the limit is {format_bps(f['limit_bps'])}"
    bandwidth = f["bandwidth_bps"]
    carried = f"{format_bps(bandwidth)} carried" if bandwidth == bandwidth else "nothing carried long enough to measure"
    if answer.answer != YES:
        return f"{carried}, {limit}"
    lost = f"{_length(f['lost_s'])} lost by it"
    return f"{carried} {_window(answer)}, {limit}; {lost}"


def _post_copy(answer: Answer, f: dict[str, Any]) -> str:
    if f.get("used") == YES:
        what = "it ended" if answer.answer == YES else "it did not end"
        return f"switched at {_at(answer.from_s)}; {what}, {_length(f['took_s'])} later"
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
    return "; ".join(_deeds(f)) or "nothing was done to it"


def _deeds(f: dict[str, Any]) -> list[str]:
    told = []
    for number in range(1, 1 + sum(name.startswith("what_") for name in f)):
        kind, when = f[f"what_{number}"], _at(f[f"at_{number}_s"])
        if f"to_{number}_ms" in f:
            told.append(
                f"downtime limit {format_ms(f[f'from_{number}_ms'])} to {format_ms(f[f'to_{number}_ms'])} at {when}"
            )
        elif kind == "bandwidth":
            after = f[f"to_{number}_bps"] if f"to_{number}_bps" in f else None
            told.append(f"bandwidth raised to {format_bps(after) if after else 'no limit'} at {when}")
        else:
            told.append(f"{kind} at {when}")
    return told


def _throttle(answer: Answer, f: dict[str, Any]) -> str:
    if answer.answer == NO:
        return "auto-converge did not throttle"
    said = f"{f['first_percent']:.0f} % rising to {f['highest_percent']:.0f} %, for {_length(f['throttled_s'])}"
    if f["largest_gap_ms"] is None:
        return f"{said}; without a heartbeat its cost to the guest is unknown"
    usual = f", 99 of 100 gaps below {format_ms(f['p99_gap_ms'])}" if f["p99_gap_ms"] is not None else ""
    return f"{said}; longest freeze of the guest {format_ms(f['largest_gap_ms'])}{usual}"


def _disk_line(answer: Answer, f: dict[str, Any]) -> str:
    if answer.answer != YES:
        return "asked for, none seen" if f["asked"] == YES else "no disk data"
    return (f"{format_bytes(f['disk_bytes'])}, {f['bytes_percent']:.0f} % of the bytes; "
            f"{_length(f['disk_s'])}, {f['time_percent']:.0f} % of the time")  # fmt: skip


def _failed(answer: Answer, f: dict[str, Any]) -> str:
    code = f" (libvirt error {f['error_code']})" if f["error_code"] is not None else ""
    if answer.answer == CANNOT_TELL:
        return f"its end was not seen ({f['outcome']})"
    return f"{f['outcome']} at {_at(answer.until_s)}" + (f": {f['error']}{code}" if f["error"] else "")


def _threshold(answer: Answer, f: dict[str, Any]) -> str:
    if answer.answer == CANNOT_TELL:
        return str(f["because"])
    if answer.answer == NO:
        return f"no rule fires; completion deadline {format_s(f['deadline_s'])}" if f["deadline_s"] else "no rule fires"
    early, late = _at(answer.from_s), _at(answer.until_s)
    said = _acts(f) + (f" ({early} to {late})" if early != late else "")
    if f["too_early"] == YES:
        return f"{said}: {_too_early(f)}"
    return said + ("; whether that is too early is unknown" if f["too_early"] == CANNOT_TELL else "")


def _too_early(f: dict[str, Any]) -> str:
    word = "too early" if f["action"] == "abort" else "not needed"
    return f"{word}, it completed by itself {_length(f['completed_later_s'])} later"


def _acts(f: dict[str, Any]) -> str:
    action = f["action"].replace("_", " ").replace("post copy", "post-copy")
    argument = "" if f["argument_ms"] is None else f" to {format_ms(f['argument_ms'])}"
    return f"{action}{argument} at {_at(f['at_s'])}, {_REASONS.get(f['reason'], f['reason'])}"


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

# The sentences of the paragraph.

_ENDS = {
    "completed": "completed after",
    "cancelled": "was aborted after",
    "failed": "failed after",
    "postcopy-failed": "failed in post-copy after",
    "interrupted": "was still running when the recording ended, after",
    "lost": "was last seen after",
}
_NAMES = {
    "nothing": "Nothing held it up",
    "bandwidth": "its bandwidth limit",
    "dirty rate": "the guest's dirty rate",
    "downtime limit": "the downtime limit",
    "destination": "the destination",
    "network": "the network",
    "source": "the source",
}


def _outcome(found: Explanation) -> str:
    name = found.trace.name or "The migration"
    ended = found["failed"]
    error = ended.figures["error"] if found.trace.meta.end.outcome in ("failed", "postcopy-failed") else None
    said = f": {str(error).rstrip('.')}" if error else ""
    return f"{name} {_ENDS[found.trace.meta.end.outcome]} {_at(ended.until_s)}{said}."


def _verdict(found: Explanation) -> str:
    names, because = found.limited_by, found.verdict.because
    if not names:
        return f"What held it up cannot be told: {because}."
    if names == ("nothing",):
        return f"Nothing held it up: {because}."
    if len(names) == 1:
        return f"It was held up by {_NAMES[names[0]]}, judged by {because}."
    return f"It was held up by {_listed([_NAMES[name] for name in names], 'or')}, judged by {because}; the trace cannot tell which."


def _listed(words: Sequence[str], joint: str) -> str:
    return f"{', '.join(words[:-1])} {joint} {words[-1]}" if len(words) > 1 else words[0]


def _fault(found: Explanation) -> str:
    stall, slow = found["stalled"], found["slow path"]
    if stall.answer == YES:
        f = dict(stall.figures)
        look = "a dead link and a destination that stands still look the same to the source"
        if f["to_the_end"] == YES:
            return f"From {_at(stall.from_s)} to the end nothing moved ({_length(f['longest_s'])}); {look}."
        return f"Nothing moved for {_length(f['longest_s'])}, {_window(stall)}; {look}."
    if slow.answer == YES:
        f = dict(slow.figures)
        limit = "than before" if f["limit_bps"] is None else f"than its limit of {format_bps(f['limit_bps'])}"
        return (f"The path carried {format_bps(f['bandwidth_bps'])} {_window(slow)}, less {limit}: a slow link, or a "
                f"host too busy to receive; {_length(f['lost_s'])} were lost by it.")  # fmt: skip
    return ""


def _race(found: Explanation) -> str:
    """The dirty rate against the bandwidth, where there was a race."""
    dirty = found["dirty rate too high"]
    f = dict(dirty.figures)
    if dirty.answer == YES:
        level = found["remaining falls"].figures.get("level_bytes")
        began = f"passes begin with about {format_bytes(float(level))}, and " if level else ""
        pause, low, high = (format_ms(1000 * f[name]) for name in ("pause_s", "pause_low_s", "pause_high_s"))
        return (f"Since {_at(dirty.from_s)} {began}{100 * f['dirty_ratio']:.0f} % of what is sent "
                f"({format_bps(f['bandwidth_bps'])}) is dirtied anew meanwhile: to send the rest the guest would have to stand still for {pause} ({low} to {high}); its "
                f"downtime limit was {format_ms(f['downtime_limit_ms'])}.")  # fmt: skip
    if "dirty rate" in found.limited_by and found.trace.meta.end.outcome == "completed":
        again = found.time_s["later passes"]
        if again > 0:
            return f"{_length(again)} of it went into sending again what the guest had dirtied."
    return ""


def _remedy(found: Explanation) -> str:
    if found["dirty rate too high"].answer != YES or found["post-copy would help"].figures.get("used") == YES:
        return ""
    post, auto = found["post-copy would help"], found["auto-converge would help"]
    said = [f"Post-copy would have ended it: {evidence(post)}."] if post.answer == YES else []
    if auto.answer == CANNOT_TELL and "at_least_percent" in auto.figures:
        said.append("Auto-converge may or may not: it needs a guest that writes less when it is held back.")
    return " ".join(said)


def _help(found: Explanation) -> str:
    done = _deeds(dict(found["helped"].figures))
    throttle = found["throttled"]
    if throttle.answer == YES:
        done.append(f"throttled {evidence(throttle)}")
    return f"What was done: {'; '.join(done)}." if done else ""


def _disk(found: Explanation) -> str:
    disk = found["disk copied"]
    return f"A disk was copied first: {evidence(disk)}." if disk.answer == YES else ""


def _converges(found: Explanation) -> str:
    said = found.verdict.because_converges
    if found.converges == CANNOT_TELL:
        return f"Whether it would have ended by itself cannot be told: {said}."
    if found.converges == NO and found.trace.meta.end.outcome in ("completed", "cancelled"):
        return f"It would not have ended by itself as long as the guest writes like that: {said}."
    return ""


def _thresholds(found: Explanation) -> str:
    """Rules that do the same for the same reason at the same moment are told together."""
    asked = [a for a in found.answers if a.question.endswith(" acts")]
    if asked and all(a.answer == NO for a in asked):
        return "None of KubeVirt's default thresholds would have fired in that time."
    alike: dict[str, list[str]] = {}
    for a in (a for a in asked if a.answer == YES):
        f = dict(a.figures)
        early = f["too_early"] == YES
        later = f" - {_too_early(f)}" if early else ""
        alike.setdefault(_acts(f) + later, []).append(a.question.removesuffix(" acts"))
    told = "; ".join(f"{_listed(names, 'and')}: {what}" for what, names in alike.items())
    return f"KubeVirt's defaults would have acted ({told})." if told else ""


def _caveat(found: Explanation) -> str:
    if found.trace.meta.domain.has_vfio:
        return "The guest has assigned devices: the state of them that is left may be missing from what remains."
    return ""

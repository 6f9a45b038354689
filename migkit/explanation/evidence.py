"""The figures of an answer as one line of evidence."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from migkit.explanation.answer import Answer
from migkit.explanation.verdict import CANNOT_TELL, NO, YES
from migkit.units import format_bps, format_bytes, format_ms, format_s, one_line

# Newly dirtied over sent: from here on it needs a word how it ended nevertheless.
_HARDLY_GAINS = 0.9


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
    if abs(tenths) < 0.1:
        return format_ms(round(1000 * float(duration_s)))
    return f"{tenths:g} s" if abs(tenths) < 100 else format_s(tenths)


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
    unseen = "passes too short for the samples to show their peaks"
    start = unseen if level is None else f"passes began with {format_bytes(level)}"
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
    if f["ended_by_itself"] == YES and answer.answer == NO:
        parts.append("it ended nevertheless, when what was left once fitted the downtime limit")
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
        if f["throttled"] == YES:
            known += ", then the guest was throttled"
        return known + (", and it ended" if answer.answer == NO else "")
    said = f"{format_bps(f['dirty_bps'])} newly dirtied against {format_bps(f['bandwidth_bps'])} sent"
    percent = f"{said}: {100 * f['dirty_ratio']:.0f} %"
    if answer.answer == YES:
        return (f"{percent} since {at(answer.from_s)}; the guest writes at least {format_bps(f['least_dirty_bps'])}, "
                f"how much more cannot be seen (a page counts once a pass)")  # fmt: skip
    parts = [f"{percent} from {at(answer.from_s)} to {at(answer.until_s)}"]
    if f["throttled"] == YES:
        parts[0] += ", with the guest throttled: unthrottled it may write more"
    if f["above_s"] >= 1:
        parts.append(f"memory was dirtied faster than it was sent for {length(f['above_s'])}")
    if f["ended_by_itself"] == YES and f["dirty_ratio"] >= _HARDLY_GAINS:
        parts.append("it ended nevertheless")
    return "; ".join(parts)


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
    if answer.answer != YES and f["limit_bps"] is not None and f["limit_changed"] == YES:
        limit += " (for the longest time)"
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
        str(f["allowed"]), "; whether its flags allowed it is unknown"
    )
    if f.get("needed") == NO:
        return "it ended without"
    if f.get("has_vfio") == YES:
        return "the guest has assigned devices: these cannot be migrated in post-copy"
    if f.get("failed") == YES and f["memory_began"] == NO:
        return "it failed before any memory was sent"
    if f.get("failed") == YES:
        return "no help against this failure: in post-copy the guest could have been lost with it"
    if f.get("flows") == NO:
        return "nothing arrives on a broken path, and a guest in post-copy would be lost with it"
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


_DEEDS = {
    "pause": "guest suspended",
    "post-copy": "switched to post-copy",
    "abort": "aborted",
    "throttle": "auto-converge throttles the guest",
}


def deeds(f: dict[str, Any], but: Collection[str] = ()) -> list[str]:
    """What was done to it, each with its moment; without the kinds that are told elsewhere."""
    told = []
    for number in range(1, 1 + sum(name.startswith("what_") for name in f)):
        kind, when = f[f"what_{number}"], at(f[f"at_{number}_s"])
        joint = "from" if kind == "throttle" else "at"
        if kind not in but:
            told.append(f"{_limit_set(f, number, kind) or _DEEDS[kind]} {joint} {when}{' on' * (joint == 'from')}")
    return told


def _limit_set(f: dict[str, Any], number: int, kind: str) -> str:
    """How a limit was changed; nothing for what has none."""
    if kind not in ("downtime limit", "bandwidth"):
        return ""
    unit, write = ("ms", format_ms) if kind == "downtime limit" else ("bps", format_bps)
    before, after = f[f"from_{number}_{unit}"], f[f"to_{number}_{unit}"]
    name = "bandwidth limit" if kind == "bandwidth" else kind
    if before is None or after is None:
        return f"{name} set to {write(after)}" if after is not None else f"{name} of {write(before)} lifted"
    return f"{name} {'raised' if after > before else 'lowered'} from {write(before)} to {write(after)}"


def _policy(answer: Answer, f: dict[str, Any]) -> str:
    if f["policy"] is None:
        return "no policy of migkit's ran beside it"
    if answer.answer == CANNOT_TELL:
        return f"{f['policy']}: what it decided was not kept, migkit replay tells"
    done = decided(f)
    if f["acts"] == YES:
        return f"{f['policy']}: {'; '.join(done) or 'it had nothing to do'}"
    would = f"it would have done: {'; '.join(done)}" if done else "it would have done nothing"
    return f"{f['policy']} only looked on; {would}"


def decided(f: dict[str, Any]) -> list[str]:
    """What a policy did: each call, when, why, and on which figures."""
    told = []
    for number in range(1, 1 + sum(name.startswith("action_") for name in f)):
        get = {name: f[f"{name}_{number}"] for name in ("action", "reason", "because", "succeeded")}
        fails = "" if get["succeeded"] == YES else " (the call failed)"
        when, argument_ms = at(f[f"at_{number}_s"]), f[f"argument_{number}_ms"]
        reason = _REASONS.get(get["reason"], get["reason"])
        told.append(f"{_action(get['action'], argument_ms)} at {when}{fails}, {reason} ({get['because']})")
    return told


def _paused(answer: Answer, f: dict[str, Any]) -> str:
    elsewhere = f["elsewhere_ms"]
    more = f"; longest other gap in its heartbeat {format_ms(elsewhere)}" if elsewhere is not None else ""
    if answer.answer == CANNOT_TELL:
        return "its end was not seen" + more
    if answer.answer == NO:
        return "it never left the source" + more.replace("other ", "")
    how = {"pause": f"suspended at {at(answer.from_s)}", "post-copy": f"switched to post-copy at {at(answer.from_s)}"}
    return f"{how.get(f['how'], 'at the switchover')}: {pause(f)}{more}"


def pause(f: dict[str, Any]) -> str:
    """How long the guest stood still, by whom."""
    reported, beat = f["reported_ms"], f["heartbeat_ms"]
    if reported is None and beat is None:
        return "for how long is unknown"
    said = [] if beat is None else [f"{format_ms(beat)} by its heartbeat"]
    said += [] if reported is None else [f"{format_ms(reported)} as libvirt reports"]
    if f["how"] == "post-copy" and reported is not None:
        said[-1] += " (which leaves out its waiting for pages)"
    if f["throttled"] == YES and beat is not None:
        said[0] += " (throttled, it beats less often)"
    return ", ".join(said)


def _throttle(answer: Answer, f: dict[str, Any]) -> str:
    if answer.answer == NO:
        return "auto-converge did not throttle"
    first, highest = f"{f['first_percent']:.0f} %", f"{f['highest_percent']:.0f} %"
    said = first if first == highest else f"{first} rising to {highest}, {f['mean_percent']:.0f} % on average"
    said = f"{said}, for {length(f['throttled_s'])}"
    if f["largest_gap_ms"] is None:
        return f"{said}; without a heartbeat the freezes of the guest are unknown"
    parts = [said]
    if f["p99_gap_ms"] is not None:
        parts.append(f"99 of 100 gaps between heartbeats below {format_ms(f['p99_gap_ms'])}")
    if f["elsewhere_gap_ms"] is not None:
        parts.append(f"the longest {format_ms(f['elsewhere_gap_ms'])}")
    elif f["switchover_gap_ms"] is not None:
        gap = format_ms(f["switchover_gap_ms"])
        parts.append(f"the longest, {gap}, is that across the switchover, which the throttle lengthens as well")
    return "; ".join(parts)


def _disk_line(answer: Answer, f: dict[str, Any]) -> str:
    if answer.answer != YES:
        return "asked for, none seen" if f["asked"] == YES else "no disk data"
    return (f"{format_bytes(f['disk_bytes'])}, {f['bytes_percent']:.0f} % of the bytes; "
            f"{length(f['disk_s'])}, {f['time_percent']:.0f} % of the time")  # fmt: skip


def _failed(answer: Answer, f: dict[str, Any]) -> str:
    code = f" (libvirt error {f['error_code']})" if f["error_code"] is not None else ""
    if answer.answer == CANNOT_TELL:
        return f"its end was not seen ({f['outcome']})"
    outcome = {"cancelled": "aborted", "postcopy-failed": "failed in post-copy"}.get(f["outcome"], f["outcome"])
    error = f": {one_line(str(f['error']))}{code}" if f["error"] else ""
    return f"{outcome} at {at(answer.until_s)}{error}"


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
    return f"{word}, it completed {length(f['completed_later_s'])} later without that"


def acts(f: dict[str, Any]) -> str:
    """What a rule does, when and why."""
    return f"{_action(f['action'], f['argument_ms'])} at {at(f['at_s'])}, {_REASONS.get(f['reason'], f['reason'])}"


def _action(name: str, argument_ms: float | None) -> str:
    action = name.replace("_", " ").replace("post copy", "post-copy")
    return action if argument_ms is None else f"{action} to {format_ms(argument_ms)}"


_REASONS = {
    "timeout": "completion deadline",
    "stuck": "no progress",
    "stall-abort": "stall detected, the rest too much for a pause",
    "stall-post-copy": "stall detected",
    "stall-hard-stop": "stall detected",
    "downtime-tuning": "progress slows down",
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
    "policy acted": _policy,
    "guest paused": _paused,
    "throttled": _throttle,
    "disk copied": _disk_line,
    "failed": _failed,
}

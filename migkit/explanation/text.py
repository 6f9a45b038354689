"""An explanation as a paragraph, for somebody who was just woken up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from migkit.explanation.answer import Explanation
from migkit.explanation.course import has_assigned_devices
from migkit.explanation.evidence import acts, at, decided, deeds, evidence, length, pause, too_early, window
from migkit.explanation.verdict import CANNOT_TELL, NO, YES
from migkit.failures import UNKNOWN, failure_of
from migkit.meta import Failure
from migkit.units import format_bps, format_bytes, format_ms, one_line

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


def paragraph(found: Explanation) -> str:
    """What happened, what held it up, what could have been done, what a threshold would have done."""
    parts = (_outcome(found), _policy(found), _verdict(found), _fault(found), _race(found), _fall(found),
             _pause(found), _help(found), _remedy(found), _disk(found), _converges(found), _thresholds(found),
             _caveat(found))  # fmt: skip
    return " ".join(part for part in parts if part)


def _outcome(found: Explanation) -> str:
    name, end = found.trace.name or "The migration", found.trace.meta.end
    ends = _ENDS[end.outcome]
    if end.outcome == "cancelled" and "abort" in _policy_did(found):
        ends = f"was aborted by the policy {found['policy acted'].figures['policy']} after"
    said = f"{name} {ends} {at(found['failed'].until_s)}"
    failure = failure_of(end) if end.outcome in ("failed", "postcopy-failed") else None
    return f"{said}: {_in_words(failure)}" if failure else f"{said}."


def _in_words(failure: Failure) -> str:
    """What happened, where the guest is, what to do, and libvirt's own words."""
    why = f" ({failure.why})" if failure.why else ""
    guest = "where the guest is, nobody told" if failure.where_guest_runs == UNKNOWN else (
        f"the guest is {failure.where_guest_runs}")  # fmt: skip
    todo = f" To do: {failure.do}." if failure.do else ""
    words = one_line(failure.original.rstrip("."))
    original = f' libvirt said "{words}".' if words else ""
    return f"{failure.what}{why}; {guest}.{todo}{original}"


def _policy_did(found: Explanation) -> set[str]:
    """The actions that a policy really took."""
    acted = found["policy acted"]
    if acted.answer != YES:
        return set()
    return {str(f) for name, f in acted.figures.items()
            if name.startswith("action_") and acted.figures[name.replace("action", "succeeded")] == YES}  # fmt: skip


def _policy(found: Explanation) -> str:
    """What the policy beside it did and why, or would have done."""
    acted = found["policy acted"]
    f: dict[str, Any] = dict(acted.figures)
    if f["policy"] is None or acted.answer == CANNOT_TELL:
        return ""
    done = "; ".join(decided(f))
    if f["acts"] == YES:
        return f"The policy {f['policy']} acted: {done}." if done else f"The policy {f['policy']} had nothing to do."
    return f"The policy {f['policy']} only looked on; it would have {f'acted: {done}' if done else 'done nothing'}."


def _verdict(found: Explanation) -> str:
    names, because = found.limited_by, found.verdict.because
    failed = found.trace.meta.end.outcome in ("failed", "postcopy-failed")
    held = "It failed because of" if failed else "It was held up by"
    if not names and failed:
        return f"Who was at fault cannot be told: {because}."
    if not names:
        return f"What held it up cannot be told: {because}."
    if names == ("nothing",):
        return f"Nothing held it up: {because}."
    if len(names) == 1:
        return f"{held} {_NAMES[names[0]]}, judged by {because}."
    listed = _listed([_NAMES[name] for name in names], "or")
    return f"{held} {listed}, judged by {because}; the trace cannot tell which."


def _listed(words: Sequence[str], joint: str) -> str:
    return f"{', '.join(words[:-1])} {joint} {words[-1]}" if len(words) > 1 else words[0]


def _fault(found: Explanation) -> str:
    stall, slow = found["stalled"], found["slow path"]
    if stall.answer == YES:
        f: dict[str, Any] = dict(stall.figures)
        look = "a dead link and a destination that stands still look the same to the source"
        if f["to_the_end"] == YES:
            return f"From {at(stall.from_s)} to the end nothing moved ({length(f['longest_s'])}); {look}."
        return f"Nothing moved for {length(f['longest_s'])}, {window(stall)}; {look}."
    if slow.answer == YES:
        f = dict(slow.figures)
        limit = "than before" if f["limit_bps"] is None else f"than its limit of {format_bps(f['limit_bps'])}"
        return (f"The path carried {format_bps(f['bandwidth_bps'])} {window(slow)}, less {limit}: a slow link, or a "
                f"host too busy to receive; {length(f['lost_s'])} were lost by it.")  # fmt: skip
    return ""


def _race(found: Explanation) -> str:
    """The dirty rate against the bandwidth, where there was a race."""
    dirty = found["dirty rate too high"]
    f: dict[str, Any] = dict(dirty.figures)
    if dirty.answer == YES:
        level = found["remaining falls"].figures.get("level_bytes")
        began = f"passes begin with about {format_bytes(float(level))}, and " if level else ""
        began_s, rate = at(dirty.from_s), format_bps(f["bandwidth_bps"])
        reckoned, low, high = (format_ms(1000 * f[name]) for name in ("pause_s", "pause_low_s", "pause_high_s"))
        return (f"Since {began_s} {began}as much as {100 * f['dirty_ratio']:.0f} % of what is sent ({rate}) is dirtied "
                f"anew meanwhile. QEMU reckons {reckoned} ({low} to {high}) to send the rest at this bandwidth, and "
                f"switches over only below its downtime limit, {format_ms(f['downtime_limit_ms'])}.")  # fmt: skip
    if "dirty rate" in found.limited_by and found.trace.meta.end.outcome == "completed":
        again, above_s = found.time_s["later passes"], f.get("above_s", 0.0)
        faster = f"; for {length(above_s)} it dirtied memory faster than it was sent" if above_s >= 1 else ""
        if again > 0:
            return f"{length(again)} of it went into sending again what the guest had dirtied{faster}."
    return ""


def _fall(found: Explanation) -> str:
    """Where a fall that was cut short was leading."""
    f: dict[str, Any] = dict(found["remaining falls"].figures)
    if f.get("fits_after_s") is None or f["rests_at_bytes"] is not None:
        return ""
    change = format_bytes(-f["slope_bytes_a_minute"])
    low, high = at(f["fits_after_low_s"]), at(f["fits_after_high_s"])
    return (f"What is left fell by {change} a minute: at that pace it fits the downtime limit at about "
            f"{at(f['fits_after_s'])} ({low} to {high}), if the fall does not slow down.")  # fmt: skip


def _pause(found: Explanation) -> str:
    """How long the guest really stood still, which no estimate tells; and why that may be less than was reckoned."""
    paused, race = found["guest paused"], found["dirty rate too high"]
    f: dict[str, Any] = dict(paused.figures)
    known = [float(ms) for ms in (f["reported_ms"], f["heartbeat_ms"]) if ms is not None]
    if paused.answer != YES or not (known or f["how"] == "pause"):
        return ""
    if f["how"] == "pause":
        until = " and stood still until it ran on the destination" if known else ""
        return f"The guest was suspended at {at(paused.from_s)}{until}: {pause(f)}."
    when = "after the switch to post-copy" if f["how"] == "post-copy" else "at the switchover"
    reckoned_ms = 1000 * float(race.figures["pause_low_s"] or 0) if race.answer == YES else 0.0
    less = f["how"] == "switchover" and max(known) < reckoned_ms
    why = "; that is less than QEMU reckoned: the bandwidth limit does not hold while the guest stands still"
    again = ", and stands still again since that failed" if found.trace.meta.end.outcome == "postcopy-failed" else ""
    return f"The guest stood still {when} for {pause(f)}{again}{why if less else ''}."


def _remedy(found: Explanation) -> str:
    if found["dirty rate too high"].answer != YES or found["post-copy would help"].figures.get("used") == YES:
        return ""
    post, auto = found["post-copy would help"], found["auto-converge would help"]
    said = [f"Post-copy would have ended it: {evidence(post)}."] if post.answer == YES else []
    if auto.answer == CANNOT_TELL and "at_least_percent" in auto.figures:
        said.append("Auto-converge may or may not have: it needs a guest that writes less when it is held back.")
    return " ".join(said)


# What is told by a sentence of its own, and the action of a policy that did it.
_TOLD_BY = {"abort": "abort", "pause": "suspend", "post-copy": "start_post_copy", "downtime limit": "set_max_downtime"}


def _help(found: Explanation) -> str:
    did = _policy_did(found)
    elsewhere = {"abort", "pause", "throttle", *(kind for kind, action in _TOLD_BY.items() if action in did)}
    done, throttle = deeds(dict(found["helped"].figures), elsewhere), found["throttled"]
    said = [f"What was done: {'; '.join(done)}."] if done else []
    if throttle.answer == YES:
        said.append(f"Auto-converge held the guest's processors back: {evidence(throttle)}.")
    return " ".join(said)


def _disk(found: Explanation) -> str:
    disk = found["disk copied"]
    return f"A disk was copied first: {evidence(disk)}." if disk.answer == YES else ""


def _converges(found: Explanation) -> str:
    said = found.verdict.because_converges
    if found.converges == CANNOT_TELL:
        return f"Whether it would have ended by itself cannot be told: {said}."
    if found.converges == NO and found.trace.meta.end.outcome in ("completed", "cancelled"):
        return f"As long as the guest goes on writing like this, it does not end by itself: {said}."
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
        later = f" - {too_early(f)}" if early else ""
        alike.setdefault(acts(f) + later, []).append(a.question.removesuffix(" acts"))
    told = "; ".join(f"{_listed(names, 'and')}: {what}" for what, names in alike.items())
    return f"KubeVirt's defaults would have acted ({told})." if told else ""


def _caveat(found: Explanation) -> str:
    if has_assigned_devices(found.trace):
        return ("The guest has assigned devices (VFIO): their state may be missing from what remains and from the "
                "reckoned downtime, so that both may be too low.")  # fmt: skip
    return ""

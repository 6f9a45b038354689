"""What there is on both hosts after a migration that did not complete, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from migkit.capture import source as s
from migkit.capture.sampler import in_background
from migkit.meta import End

ASK_S: Final = 5.0

State = tuple[int, int]
_GONE: Final[State] = (-1, 0)
# libvirt include/libvirt/libvirt-domain.h: virDomainState, and virDomainPausedReason.
_STATES: Final = ("has no state", "runs", "is blocked", "is paused", "is shutting down", "is shut off", "has crashed")
_PAUSED: Final = {
    1: "by a user", 2: "for the migration", 5: "after a disk error", 11: "while starting", 12: "in post-copy",
    13: "post-copy failed",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """`source` and `destination` in words; `advice`, what to do next, a sentence a line."""

    source: str
    destination: str
    advice: tuple[str, ...]

    def lines(self) -> list[str]:
        """As text."""
        return [f"source: {self.source}", f"destination: {self.destination}", *(f"-> {line}" for line in self.advice)]


def sides(source: s.Source, destination: s.Witness | None, end: End, *, unknown: str = "") -> Sides:
    """Asks both hosts. `unknown` says why the destination cannot be asked."""
    here, why_not_here = _state(source)
    there, why_not_there = (None, unknown) if destination is None else _state(destination)
    return Sides(
        source=_told(here, why_not_here), destination=_told(there, why_not_there),
        advice=tuple(_advice(end.outcome, here, there)),
    )  # fmt: skip


def _state(side: s.Witness) -> tuple[State | None, str]:
    try:
        state: State | None = in_background(side.state, ASK_S)
    except s.SourceError as error:
        return (_GONE, "") if error.code == s.NO_DOMAIN else (None, error.text)
    return state, f"no answer within {ASK_S:g} s"


def _told(state: State | None, why_not: str) -> str:
    if state is None:
        return f"unknown: {why_not}"
    if state == _GONE:
        return "the guest is not there"
    word = _STATES[state[0]] if state[0] < len(_STATES) else f"is in state {state[0]}"
    reason = _PAUSED.get(state[1], "") if state[0] == s.PAUSED else ""
    return f"the guest {word}" + (f" ({reason})" if reason else "")


def _advice(outcome: str, here: State | None, there: State | None) -> list[str]:
    """What to do; the guest must never run on both hosts."""
    if outcome == "postcopy-failed" or s.PAUSED_POSTCOPY_FAILED in (here and here[1], there and there[1]):
        if there == _GONE:
            return [
                "what the destination had of the guest is gone with its QEMU: post-copy cannot be resumed",
                "destroy it on the source and start it anew; what it had not written to its disks is lost",
            ]
        return [
            "neither host has all of the guest's memory: resume it on neither of them",
            "once the hosts reach each other again, try to go on: "
            "virsh migrate DOMAIN DEST-URI --live --p2p --postcopy --postcopy-resume",
            "if that cannot be: destroy it on both and start it anew; what it had not written to its disks is lost",
        ]
    if outcome == "interrupted" and here is not None and here != _GONE:
        return ["the migration goes on by itself: look on with migkit shadow, end it with virsh domjobabort"]
    runs_here, runs_there = _runs(here), _runs(there)
    if runs_here and runs_there:
        return ["the guest runs on BOTH hosts: pause one of the two at once, before its disks are damaged"]
    if runs_here:
        left = there is not None and there != _GONE
        rest = ["what has arrived on the destination must not run: virsh destroy it there"] if left else []
        return ["nothing is lost: the guest runs on as before, and may be migrated again", *rest]
    if runs_there:
        return ["the guest runs on the destination: the migration has succeeded after all"]
    if here is not None and here[0] == s.PAUSED:
        sure = "" if there == _GONE else "once you are sure that it does not run on the destination, "
        return [f"the guest stands still on the source: {sure}virsh resume it there"]
    if here == _GONE and there == _GONE:
        return ["the guest is on neither host: it has ended, or somebody destroyed it; start it anew"]
    return ["find out where the guest runs (virsh domstate --reason on both hosts) before you do anything to it"]


def _runs(state: State | None) -> bool:
    return state is not None and state[0] in (s.RUNNING, 2)

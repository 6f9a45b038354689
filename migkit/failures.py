"""Libvirt's and QEMU's errors in words: what happened, why, what to do, and where the guest is now.

The words are in failures.toml. What is not known there is said to be unknown, never guessed.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import tomllib
import urllib.parse
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from migkit.meta import End, Failure
from migkit.units import one_line

SOURCE: Final = "on the source"
DESTINATION: Final = "on the destination"
NOWHERE: Final = "nowhere: it is paused, its memory is spread over both hosts"
STOPPED: Final = "nowhere: it stopped on the source"
PAUSED: Final = "on the source, paused"
UNKNOWN: Final = "unknown"
NOT_KNOWN: Final = "not known to migkit"

_PLACES: Final = {
    "source": SOURCE, "destination": DESTINATION, "nowhere": NOWHERE, "stopped": STOPPED, "paused": PAUSED,
    "unknown": UNKNOWN,
}  # fmt: skip
_BY_OUTCOME: Final = {"failed": SOURCE, "cancelled": SOURCE, "postcopy-failed": NOWHERE, "completed": DESTINATION}
# What a recording has where nobody told it an error.
_WITHOUT_TEXT: Final = {
    "failed": ("failed", "whoever asked for the migration was told the reason; the recording does not have it",
               "look into the caller's log, or libvirt's on the source"),
    "cancelled": ("cancelled", "someone asked for it", "nothing for the guest, which stayed"),
    "lost": ("nobody saw how it ended", "the recorder lost sight of it", "look for the guest on both hosts"),
}  # fmt: skip
# Of foreign words on a line.
_LONGEST: Final = 400
_POST_COPY_TEXT: Final = "failed in post-copy phase"
# What the evidence of an outcome (migkit.capture.outcome) adds.
_EVIDENCE: Final = {
    "the guest runs on the source": SOURCE, "the guest is paused on the source": PAUSED,
    "the guest stopped on the source": STOPPED,
}  # fmt: skip
# Of libvirt's words for it, those that never change.
CANCELLED: Final = "canceled by client"
_MEANT: Final = {"cancelled": CANCELLED, "postcopy-failed": _POST_COPY_TEXT}
_DAEMON: Final = "on the source, as its daemon's user (root)"
# The source's daemon about the destination (src/qemu/qemu_migration.c), and ssh as it connects.
_REMOTE: Final = re.compile(r"Failed to connect to remote libvirt URI (?P<uri>\S+?)(: (?P<why>(?s:.*))|$)")
_BY_SSH: Final = re.compile(
    r"(Cannot recv|End of file while reading) data: (?s:.*)"
    r"(Host key verification failed|Permission denied \(|ssh: connect to host|ssh: Could not resolve|not found: )"
)
_SSH_HOST: Final = re.compile(r"connect to host (\S+) port|resolve hostname (\S+?):|\w+@(\S+?): Permission denied")
_LOOK: Final = "look into libvirt's log and the guest's QEMU log on both hosts at that moment"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """An entry of failures.toml, which explains the fields."""

    what: str
    why: str
    do: str
    pattern: str = ""
    code: int | None = None
    by_code: bool = False
    where: str = ""

    def fits(self, code: int | None, text: str) -> bool:
        """Whether the text is this one's. An unknown code does not speak against it."""
        other = self.code is not None and not self.by_code and code not in (None, self.code)
        if not self.pattern or other:
            return False
        return re.search(self.pattern, text) is not None


@functools.cache
def _read(table: str) -> tuple[Rule, ...]:
    text = (files("migkit") / "failures.toml").read_text()
    return tuple(Rule(**entry) for entry in tomllib.loads(text)[table])


def rules() -> tuple[Rule, ...]:
    """The failures of failures.toml in their order."""
    return _read("failure")


def connections() -> tuple[Rule, ...]:
    """What ends a connection before it stands, of failures.toml, in its order."""
    return _read("connection")


def readable(code: int | None, text: str, *, outcome: str = "failed", phase: str = "") -> Failure:
    """An error of libvirt in words.

    Parameters: libvirt's `code` and `text`; `outcome` as a trace has it (`schema.OUTCOMES`); `phase`, `post-copy` once
    the guest has been switched over: then it is whole on neither side. An unknown text is said to be so, and tells
    nothing of where the guest is; one that was cancelled, or failed in post-copy, is, whatever else the text tells.

    >>> readable(9, "operation failed: job 'migration in' failed in post-copy phase").what
    'post-copy failed'
    """
    # QEMU may meet the cut connection before it has cancelled, and then words that as its end; and once post-copy has
    # failed the call may tell only what it met next, e.g. that the destination's guest is gone.
    meant = (None, _MEANT[outcome]) if outcome in _MEANT else (code, text)
    unreached = _unreached(text) if outcome == "failed" and phase != "post-copy" else None
    if unreached is not None:
        return dataclasses.replace(unreached, where_guest_runs=SOURCE)
    rule = next((rule for rule in rules() if rule.fits(*meant)), None)
    rule = rule or next((rule for rule in rules() if rule.by_code and rule.code == code), None)
    spread = outcome == "postcopy-failed" or (phase == "post-copy" and outcome != "completed")
    where = NOWHERE if spread else _BY_OUTCOME.get(outcome, UNKNOWN)
    if rule is None:
        where = UNKNOWN if outcome == "failed" and not spread else where
        return Failure(what=NOT_KNOWN, do=_LOOK, original=text, where_guest_runs=where)
    if rule.where and not spread and outcome != "cancelled":
        where = _PLACES[rule.where]
    return Failure(what=rule.what, why=rule.why, do=rule.do, original=text, where_guest_runs=where)


def unreachable(text: str, uri: str, side: str, *, by: str = "here") -> Failure | None:
    """Why a libvirt could not be connected to, in words; None where it is not known.

    Parameters: libvirt's `text`; the `uri` that was tried; `side`, whose libvirt that is; `by`, where and as whom the
    connection is made.

    >>> unreachable("Cannot recv data: Host key verification failed.: ...", "qemu+ssh://h2/system", "the source").what
    'the source is not trusted'
    """
    rule = next((rule for rule in connections() if rule.fits(None, text)), None)
    if rule is None:
        return None
    words = {"there": side, "here": by, "host": _host(uri) or _named(text) or "HOST"}
    return Failure(what=rule.what.format(**words), why=rule.why, do=rule.do.format(**words), original=text)


def _host(uri: str) -> str:
    try:
        return urllib.parse.urlsplit(uri).hostname or ""
    except ValueError:
        return ""


def _named(text: str) -> str:
    """The host that a text of SSH names."""
    found = _SSH_HOST.search(text)
    return next((name for name in found.groups() if name), "") if found else ""


def _unreached(text: str) -> Failure | None:
    """A migration that failed because the source's daemon could not connect to the destination; None for any other
    text. What SSH says as it connects is that, too, where no URI stands before it (libvirt 9.0): migkit's own
    connection stood when the migration was asked for."""
    remote = _REMOTE.search(text)
    if remote is None and not _BY_SSH.search(text):
        return None
    why, uri = (text, "") if remote is None else (remote["why"] or "", remote["uri"])
    found = unreachable(why, uri, "the destination", by=_DAEMON)
    return found and dataclasses.replace(found, original=text)


def failure_of(end: End) -> Failure | None:
    """How a migration failed, in words; None where it completed, or still ran as the recording ended.

    Traces from before failures were kept are read by their error's code and text.
    """
    if end.failure is not None or end.outcome in ("completed", "interrupted"):
        return end.failure
    found = _found(end)
    places = [place for evidence, place in _EVIDENCE.items() if evidence in end.evidence]
    return dataclasses.replace(found, where_guest_runs=places[0]) if places else found


def _found(end: End) -> Failure:
    if end.error_text or end.error_code is not None:
        return readable(end.error_code, end.error_text, outcome=end.outcome)
    if end.outcome == "postcopy-failed":
        return dataclasses.replace(readable(None, _POST_COPY_TEXT, outcome=end.outcome), original="")
    what, why, do = _WITHOUT_TEXT[end.outcome]
    return Failure(what=what, why=why, do=do, where_guest_runs=_BY_OUTCOME.get(end.outcome, UNKNOWN))


def with_failure(end: End) -> End:
    """An end that also says in words what failed."""
    return dataclasses.replace(end, failure=failure_of(end))


def in_a_line(failure: Failure) -> str:
    """A failure as one line: what and why, then libvirt's own words.

    >>> in_a_line(readable(78, "migration out: canceled by client")).split(":")[0]
    'cancelled'
    """
    original = one_line(failure.original, _LONGEST)
    if failure.what == NOT_KNOWN:
        return original or failure.what
    said = failure.what + (f": {failure.why}" if failure.why else "")
    return said + (f" [{original}]" if original else "")


def told(failure: Failure) -> str:
    """A failure as a few lines to read."""
    lines = [failure.what + (f": {failure.why}" if failure.why else "")]
    lines += [f"the guest is {failure.where_guest_runs}" if failure.where_guest_runs != UNKNOWN
              else "where the guest is now is not known"]  # fmt: skip
    lines += [f"to do: {failure.do}"] if failure.do else []
    lines += [f"original: {one_line(failure.original, _LONGEST)}"] if failure.original else []
    return "\n".join(lines)

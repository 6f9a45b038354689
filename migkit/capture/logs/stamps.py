"""Times as people and programs write them beside what they measured: `date` in its usual forms, ISO, Unix time."""

from __future__ import annotations

import datetime
import re
from typing import NamedTuple

from migkit.units import NS_PER_MS, NS_PER_S

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_ISO = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9})\d*)?(?: ?(Z|UTC|GMT|[+-]\d\d:?\d\d))?", re.ASCII
)
_UNIX = re.compile(r"(\d{10})(?:\.(\d{1,9})|(\d{3})|(\d{9}))?", re.ASCII)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# In any order: a weekday, a day, a month's name, a time, perhaps half of the day, perhaps a zone, a year.
_DATE = re.compile(
    rf"(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? +)?(?:(?P<day>\d\d?) +(?P<month>{'|'.join(_MONTHS)})|"
    rf"(?P<month2>{'|'.join(_MONTHS)}) +(?P<day2>\d\d?))(?: +(?P<year>\d{{4}}))? +"
    r"(?P<time>\d\d?:\d\d:\d\d)(?: (?P<half>AM|PM))?(?: (?P<zone>[A-Z]{1,5}|[+-]\d{2,4}))?(?: (?P<year2>\d{4}))?",
    re.ASCII,
)
# A column of ns holds times until 2262.
_LATEST_S = 2**33
_DECORATION = "[](){}<>=#-*:;| \t"


class Stamp(NamedTuple):
    """A moment. `zoned`: its zone was told; UTC was taken where it was not."""

    wall_ns: int
    zoned: bool


def line_stamp(text: str) -> Stamp | None:
    """The time that a line consists of; None for any other line.

    >>> line_stamp("Sat Aug  1 10:00:00 UTC 2026") == line_stamp("=== 1785578400 ===")
    True
    >>> line_stamp("Iteration:        2") is None
    True
    """
    if len(text) > 80:
        return None
    words = text.strip(_DECORATION)
    return _unix(words) or _whole_iso(words) or _date(words)


def iso_stamp(text: str) -> Stamp | None:
    """The last ISO time in a text, such as what stands before a log's message."""
    found = None
    for match in _ISO.finditer(text):
        found = _iso(match) or found
    return found


def _unix(words: str) -> Stamp | None:
    match = _UNIX.fullmatch(words)
    if match is None:
        return None
    seconds, fraction, ms, ns = match.groups()
    if int(seconds) >= _LATEST_S:
        return None
    rest_ns = int((fraction or "0").ljust(9, "0")) + int(ms or 0) * NS_PER_MS + int(ns or 0)
    return Stamp(int(seconds) * NS_PER_S + rest_ns, True)


def _whole_iso(words: str) -> Stamp | None:
    match = _ISO.fullmatch(words)
    return _iso(match) if match else None


def _iso(match: re.Match[str]) -> Stamp | None:
    *numbers, fraction, zone = match.groups()
    return _stamp([int(number) for number in numbers], int((fraction or "0").ljust(9, "0")), zone)


def _date(words: str) -> Stamp | None:
    match = _DATE.fullmatch(words)
    if match is None:
        return None
    said = match.groupdict()
    year, month, day = (said[key] or said[f"{key}2"] for key in ("year", "month", "day"))
    if year is None:
        return None
    hour, minute, second = map(int, said["time"].split(":"))
    if said["half"]:
        hour = hour % 12 + (12 if said["half"] == "PM" else 0)
    return _stamp([int(year), _MONTHS.index(month) + 1, int(day), hour, minute, second], 0, said["zone"])


def _stamp(numbers: list[int], fraction_ns: int, zone: str | None) -> Stamp | None:
    try:
        moment = datetime.datetime(*numbers, tzinfo=datetime.UTC)  # type: ignore[arg-type,misc]
    except ValueError:
        return None
    ahead_s = _ahead_s(zone)
    whole_s = (moment - _EPOCH) // datetime.timedelta(seconds=1) - (ahead_s or 0)
    if not 0 <= whole_s < _LATEST_S:
        return None
    return Stamp(whole_s * NS_PER_S + fraction_ns, ahead_s is not None)


def _ahead_s(zone: str | None) -> int | None:
    """How far a zone is ahead of UTC; None where it is not told, or only by a name that several zones share."""
    if zone in ("Z", "UTC", "GMT"):
        return 0
    if zone is None or zone[0] not in "+-":
        return None
    digits = zone[1:].replace(":", "").ljust(4, "0")
    ahead_s = int(digits[:2]) * 3600 + int(digits[2:]) * 60
    return -ahead_s if zone[0] == "-" else ahead_s

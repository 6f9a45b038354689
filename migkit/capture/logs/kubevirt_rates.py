"""Which release of KubeVirt wrote a log's lines, and what it called a megabit a second."""

from __future__ import annotations

import itertools
import re
import statistics as numbers
from collections.abc import Iterator, Sequence

from migkit.capture.logs.kubevirt_lines import Event, Sample
from migkit.units import MIB

_BITS, _SHRUNK = 125_000, 8_000_000
_Release = tuple[int, int, int]
_NEWEST: _Release = (999, 0, 0)
# What a monitor of v1.9 or later alone says.
_SINCE_V19 = re.compile(
    r"initialized migration monitor: |downtime tuning|stall detected: |relaxed best remaining bytes: |"
    r"forcing switchover by setting|max downtime set to |completion timeout reached: |Set max downtime to |"
    r"aborting migration|Aborting migration: (?:stuck for|not completed after) |reconciling VM pause state"
)


def believed(told: str | None, samples: Sequence[Sample], events: Sequence[Event], said: list[str]) -> str | None:
    """The version to go by: the one that was told, unless lines prove that another wrote them."""
    since, until, proof = _releases(samples, events)
    low, high = _bounds(told)
    if told is not None and (high < since or low > until):
        said.append(f"--kubevirt-version {told} cannot have written these lines, {proof}: it is not gone by")
        told = None
    return "1.9" if told is None and since >= (1, 9, 0) else told


def _releases(samples: Sequence[Sample], events: Sequence[Event]) -> tuple[_Release, _Release, str]:
    """The first and the last release that can have written the lines, and what proves it."""
    if not all(sample.said.in_mib for sample in samples):
        return (0, 55, 0), (1, 0, 0), "whose amounts are in bytes as v0.55 to v1.0.0 print them"
    if any(sample.source or sample.final or sample.said.more for sample in samples):
        return (1, 9, 0), _NEWEST, "whose fields only v1.9 and later print"
    words = next((e.item.message for e in events if _SINCE_V19.match(e.item.message)), "")
    if words:
        return (1, 9, 0), _NEWEST, f'among which is "{words[:40].strip()}", of v1.9 and later'
    return (1, 0, 1), _NEWEST, "whose amounts are in MiB as v1.0.1 and later print them"


def _bounds(version: str | None) -> tuple[_Release, _Release]:
    """The first and the last release that a version without its patch level may mean."""
    match = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", version or "")
    if match is None:
        return _NEWEST, _NEWEST
    major, minor = int(match[1]), int(match[2])
    return (major, minor, int(match[3] or 0)), (major, minor, 999 if match[3] is None else int(match[3]))


def bytes_of_mbps(samples: Sequence[Sample], version: str | None, said: list[str]) -> int | None:
    """What one printed Mbps is, in bytes a second; None where nobody can tell."""
    told = _mbps_of_version(version)
    if told is not None:
        if told == _SHRUNK:
            said.append("rates were printed 64 times too small by this version and are repaired")
        _tell_unlikely(told, list(_flow_ratios(samples)), version, said)
        return told
    ratios = list(_flow_ratios(samples))
    if not ratios:
        said.append("nothing tells whether rates are 64 times too small (KubeVirt v1.0.1 to v1.2.0): left out; "
                          "--kubevirt-version says it")  # fmt: skip
        return None
    if numbers.median(ratios) < 8:
        return _BITS
    said.append(f"rates are 64 times too small, as KubeVirt v1.0.1 to v1.2.0 print them (what was sent is "
                      f"{numbers.median(ratios):.0f} times what they say): repaired")  # fmt: skip
    return _SHRUNK


def _tell_unlikely(told: int, ratios: Sequence[float], version: str | None, said: list[str]) -> None:
    """Says where what was sent speaks against the version."""
    if ratios and (numbers.median(ratios) < 8) != (told == _BITS):
        times = numbers.median(ratios) * _BITS / told
        said.append(f"what was sent is {times:.2g} times what the rates say, as if another version than "
                          f"KubeVirt {version} had printed them: look at --kubevirt-version")  # fmt: skip


def _mbps_of_version(version: str | None) -> int | None:
    match = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", version or "")
    if match is None:
        return _BITS if version == "main" else None
    release = (int(match[1]), int(match[2]))
    if release == (1, 2):
        return None if match[3] is None else _SHRUNK if match[3] == "0" else _BITS
    return _SHRUNK if (1, 0) <= release < (1, 2) else _BITS


def _flow_ratios(samples: Sequence[Sample]) -> Iterator[float]:
    """How many times more memory was sent between two lines than the second one's bandwidth explains."""
    polls = [sample.said for sample in samples if not sample.final]
    for before, after in itertools.pairwise(polls):
        sent = (after.memory_processed - before.memory_processed) * MIB
        seconds = (after.elapsed_ms - before.elapsed_ms) / 1000
        # A bandwidth that prints as 0 is less than 1: where more was sent it cannot be bits.
        printed = max(after.bandwidth, 1) * _BITS
        if seconds >= 1 and sent >= 16 * MIB:
            yield sent / seconds / printed

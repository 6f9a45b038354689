"""Bytes, rates and durations as people read them. Inside migkit they are plain numbers with the unit in the name.
And foreign words on a line of a terminal."""

from __future__ import annotations

import re

KIB = 1024
MIB = 1024 * 1024
GIB = 1024 * MIB
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000


def _three_digits(value: float) -> str:
    if value >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def format_bytes(value_bytes: float) -> str:
    """Bytes in binary units, three digits.

    >>> format_bytes(268967936), format_bytes(512)
    ('257 MiB', '512 B')
    """
    value, unit = float(value_bytes), "B"
    for bigger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1000:
            break
        value, unit = value / 1024, bigger
    return f"{'-' if value < 0 else ''}{_three_digits(abs(value))} {unit}"


def format_bps(value_bps: float) -> str:
    """A rate in bytes per second, e.g. `32 MiB/s`."""
    return format_bytes(value_bps) + "/s"


def format_ms(value_ms: float) -> str:
    """A duration given in milliseconds.

    >>> format_ms(33), format_ms(1250), format_ms(0)
    ('33 ms', '1.25 s', '0 ms')
    """
    return f"{_three_digits(value_ms)} ms" if abs(value_ms) < 1000 else format_s(value_ms / 1000)


def format_s(value_s: float) -> str:
    """A duration given in seconds.

    >>> format_s(12.34), format_s(125), format_s(3725)
    ('12.3 s', '2 min 05 s', '1 h 02 min')
    """
    if value_s < 120:
        return f"{_three_digits(value_s)} s"
    whole = round(value_s)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?")


def one_line(words: str, longest: int = 200) -> str:
    """Words of a file that anybody may have written, fit for a terminal: without escape sequences, line ends and all
    else that cannot be seen, no longer than `longest` characters.

    >>> one_line("a\\x1b[31mb\\r\\nc"), one_line("abcdef", 5)
    ('ab c', 'ab...')
    """
    # To look at more costs time and shows nothing.
    seen = _ESCAPES.sub("", words[: 20 * longest])
    text = " ".join("".join(each if each.isprintable() else " " for each in seen).split())
    return text if len(text) <= longest else text[: longest - 3] + "..."

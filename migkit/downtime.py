"""What to believe of a migration's downtime: how far three numbers of one pause agree over a set, and a page on it."""

from __future__ import annotations

import string
import textwrap
from collections.abc import Iterable
from typing import Any, Final

import pandas as pd

from migkit import stats
from migkit.errors import MigkitError
from migkit.trace import Trace
from migkit.units import format_ms

COLUMNS: Final = (
    "traces", "expected_ms", "reported_ms", "heartbeat_ms", "factor", "largest_factor", "largest_in", "missed_ms",
    "missed_in", "expected_factor", "expected_off_ratio",
)  # fmt: skip


def by_kind(table: pd.DataFrame) -> pd.DataFrame:
    """How far the numbers of `stats.downtimes` agree: a row for each kind of pause that occurs, and one for all.

    Returns, by kind: traces; the medians expected_ms, reported_ms, heartbeat_ms; factor and largest_factor, heartbeat
    over reported (median, largest, and largest_in which trace); missed_ms, the most by which the heartbeat exceeds what
    was reported, and missed_in; expected_factor, expected over heartbeat (median); expected_off_ratio, the share in
    which that is above 2 or below 1/2. Only traces that have all three numbers count.
    """
    known = table.dropna(subset=["expected_ms", "reported_ms", "heartbeat_ms"])
    known = known[known["reported_ms"] > 0]
    kinds = {str(kind): rows for kind, rows in known.groupby("kind", observed=True)} | {"all": known}
    return pd.DataFrame([_agreement(rows) for rows in kinds.values() if len(rows)], columns=list(COLUMNS),
                        index=pd.Index([kind for kind, rows in kinds.items() if len(rows)], name="kind"))  # fmt: skip


def _agreement(rows: pd.DataFrame) -> tuple[object, ...]:
    heartbeat, reported = rows["heartbeat_ms"], rows["reported_ms"]
    factor, missed, expected = heartbeat / reported, heartbeat - reported, rows["expected_ms"] / heartbeat
    medians = (rows[name].median() for name in COLUMNS[1:4])
    off = ((expected > 2) | (expected < 0.5)).mean()
    return (len(rows), *medians, factor.median(), factor.max(), factor.idxmax(), missed.max(), missed.idxmax(),
            expected.median(), off)  # fmt: skip


def page(traces: Iterable[Trace]) -> str:
    """The page in Markdown: the table by kind, and what an operator may take from it, with the set's own figures.

    A paragraph that speaks of a kind that does not occur is left out. Raises MigkitError when no migration of the set
    has all three numbers.
    """
    table = stats.downtimes(traces)
    kinds = by_kind(table)
    if kinds.empty:
        raise MigkitError("no migration has an expected, a reported and a heartbeat downtime; only a lab's guest beats")
    figures = _figures(table, kinds)
    said = (" ".join(text.split()) for text in _READING)
    known = (text.format_map(figures) for text in said if _fields(text) <= set(figures))
    reading = "\n\n".join(textwrap.fill(text, 120, break_on_hyphens=False) for text in known)
    return _HEAD + "".join(_row(kind, row) for kind, row in kinds.iterrows()) + f"\n{reading}\n"


def _fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def _row(kind: object, row: pd.Series[Any]) -> str:
    cells = (
        str(kind), str(row["traces"]), *(format_ms(row[name]) for name in COLUMNS[1:4]), f"{row['factor']:.1f}",
        f"{row['largest_factor']:.1f} (`{row['largest_in']}`)", f"{format_ms(row['missed_ms'])} (`{row['missed_in']}`)",
        f"{row['expected_factor']:.1f}", _percent(row["expected_off_ratio"]),
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |\n"


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.0f} %"


def _figures(table: pd.DataFrame, kinds: pd.DataFrame) -> dict[str, str]:
    """What the reading says in figures, as kind_figure."""
    found: dict[str, str] = {}
    for kind, row in kinds.iterrows():
        own = table if kind == "all" else table[table["kind"] == kind]
        figures = {name: format_ms(row[f"{name}_ms"]) for name in ("expected", "reported", "heartbeat", "missed")}
        figures |= {"traces": str(row["traces"]), "factor": f"{row['factor']:.2g}", "missed_in": row["missed_in"],
                    "largest": f"{row['largest_factor']:.2g}", "largest_in": row["largest_in"],
                    "high": f"{row['expected_factor']:.1f}", "off": _percent(row["expected_off_ratio"]),
                    "shortest": format_ms(own["heartbeat_ms"].min()), "longest": format_ms(own["heartbeat_ms"].max()),
                    "foreseen": format_ms(own["expected_ms"].max())}  # fmt: skip
        found |= {f"{str(kind).replace('-', '_').replace(' ', '_')}_{name}": text for name, text in figures.items()}
    return found | _gaps(table)


def _gaps(table: pd.DataFrame) -> dict[str, str]:
    """The figures on pauses elsewhere, and on the gaps that a heartbeat has anyway; those that are known."""
    found: dict[str, str] = {}
    own = table["heartbeat_p99_gap_ms"].dropna()
    elsewhere = table.loc[table["largest_gap_ms"] > 2 * table["heartbeat_ms"], "largest_gap_ms"]
    if len(elsewhere):
        found |= {"elsewhere": str(len(elsewhere)), "elsewhere_longest": format_ms(elsewhere.max()),
                  "elsewhere_in": str(elsewhere.idxmax())}  # fmt: skip
    if len(own):
        found |= {"late": format_ms(own.median()), "late_longest": format_ms(own.max())}
    return found


_HEAD = """# Downtime: which number to believe

Of one and the same pause QEMU *expects* something (the last estimate before the switchover), libvirt *reports*
something (the final statistics), and the guest *lives through* something (its heartbeat, every 10 ms, seen from one
machine with one clock). A row a kind of pause, medians; [downtime.png](downtime.png) has a row a trace. The figures are
made from the traces: `make data`.

| kind | traces | expected | reported | heartbeat | heartbeat / reported | largest | heartbeat - reported, largest | expected / heartbeat | expected off by more than 2x |
|---|---|---|---|---|---|---|---|---|---|
"""  # noqa: E501

# Every claim that has no figure in it is held against the set by tests/test_downtime.py.
_READING = (
    """**What to do.** For an agreement on service, measure in the guest. Failing that: in pre-copy take the reported
    downtime plus {pre_copy_missed}, the most by which a guest exceeded it here; over a slow link take it as it is;
    after post-copy or under a throttle take no reported number; and alarm on the expected one only for its trend.""",
    """**Expected is no forecast of the pause**: off by more than a factor of two in {all_off} of {all_traces}
    migrations. In plain pre-copy QEMU expected {pre_copy_expected} and the guest stood still for {pre_copy_heartbeat};
    the median is {pre_copy_high} times too much. It divides what was left at the last bitmap sync by the limited
    bandwidth, but libvirt's limit does not hold once the guest stands.""",
    """Where the link itself is the limit, expected is nearly right ({link_limited_high} times). Before post-copy it
    tells of an ending that did not happen.""",
    """**Just before a guest is suspended expected is right** ({suspended_high} times): what is left is then sent while
    the guest stands, at the limited bandwidth.""",
    """**Reported is right for long pauses and too low for short ones.** Over a slow link it was
    {link_limited_reported}, and the guest stood still for {link_limited_factor} times that; in pre-copy
    {pre_copy_reported}, and {pre_copy_factor} times that, but never more than {pre_copy_missed} beyond it
    (`{pre_copy_missed_in}`).""",
    """**After post-copy reported means nothing**: {post_copy_reported}, and the guest stood still for
    {post_copy_shortest} to {post_copy_longest}, {post_copy_factor} times as long: it is switched over at once and then
    waits for the pages that it touches first.""",
    """**Under a throttle it may be as far off**: the guest stood still for {throttled_shortest} to {throttled_longest},
    up to {throttled_largest} times what was reported (`{throttled_largest_in}`). Running only now and then, it last
    beat long before it was stopped.""",
    """**A raised downtime limit is a permission, not a pause**: in {limit_raised_traces} migrations it was raised until
    they ended, QEMU expected up to {limit_raised_foreseen}, and the guest stood still for {limit_raised_longest} at
    most.""",
    """**The switchover is not the only pause.** In {elsewhere} migrations the guest stood still elsewhere for more than
    twice as long, up to {elsewhere_longest} (`{elsewhere_in}`).""",
    """**What these numbers can tell.** Emulated guests on one busy machine leave gaps of {late} between two beats
    anyway (99th percentile, median over the traces; up to {late_longest} under a throttle or in post-copy): smaller
    differences mean nothing. The ways in which the numbers part come from QEMU and libvirt; the milliseconds are this
    lab's.""",
)

"""The picture of `migkit migrate` on a terminal: a bundled real migration, lived through once more by the monitor and
drawn by the view of the command line, as an SVG. The same trace makes the same bytes:

    python -m tests.cli.picture > data/migrate.svg
"""

from __future__ import annotations

import io
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.sax.saxutils import escape

import migkit as mk
from migkit.cli.view import ScreenView
from migkit.drivers.beside import Moment
from migkit.drivers.columns import columns
from migkit.drivers.evidence import deadlines, internals
from migkit.drivers.replay import trace_data_size
from migkit.drivers.schedule import schedule
from migkit.drivers.wakes import Woken
from migkit.schema import BY_KEY
from migkit.units import NS_PER_S

TRACE = Path(__file__).parents[2] / "data" / "traces" / "nonconverging-long.parquet"
POLICY, OPTIONS = "kubevirt-1.9-stall", {"allow_post_copy": True}
UNTIL_S, WIDE = 57.3, 100
PROMPT = f"$ migkit migrate web1 qemu+tcp://host2/system --policy {POLICY} --set allow_post_copy=true"
CHARACTER, LINE, EDGE = 8.4, 20, 16


def drawn(trace: mk.Trace) -> list[str]:
    """What stands on the terminal, as wide as $COLUMNS says, UNTIL_S seconds after the migration began."""
    policy = mk.policy(POLICY, **OPTIONS)
    plan, rows = schedule(columns(trace), events=policy.hears_iterations), trace.samples.to_dict("records")
    woken = Woken(policy, data_size_gb=trace_data_size(trace, policy), has_vfio=False, start_ns=0)
    facts = SimpleNamespace(domain=SimpleNamespace(name="web1"))
    beside: Any = SimpleNamespace(
        facts=facts, policy=policy, acts=False, moment=None, cancelling=False, decided=lambda since: woken.told[since:]
    )
    out = io.StringIO()
    view, seen = ScreenView(beside, out), 0
    view.begun(beside)
    for t_ns, event, row in zip(plan.t_ns.tolist(), plan.event.tolist(), plan.row.tolist(), strict=True):
        if t_ns > UNTIL_S * NS_PER_S:
            break
        for number in range(seen, row + 1):
            view.saw(known(rows[number]))
        seen = max(seen, row + 1)
        stats = {
            key: value for key, column in BY_KEY.items() if (value := known(rows[row]).get(column.name)) is not None
        }
        stats["type"] = known(rows[row])["job_type"]
        woken.wake(t_ns, stats, (1, 1), iteration=rows[row]["event_iteration"] if event else None)
        values, passing = internals(woken.monitor, t_ns), deadlines(woken.monitor, t_ns)
        beside.moment = Moment(t_s=t_ns / NS_PER_S, values=values, deadlines=passing, ended=woken.monitor.finished)
        view.tick()
    view.close()
    return [PROMPT, *screen(out.getvalue())]


def known(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the trace as the recorder hands it on: without what libvirt did not say."""
    return {name: value for name, value in row.items() if value is not None and value == value and str(value) != "<NA>"}


def screen(written: str) -> list[str]:
    """The lines that are left when the view's own movements of the cursor have been followed."""
    lines: list[str] = []
    for part in re.split(r"(\x1b\[\d+A\r\x1b\[J)", written):
        up = re.fullmatch(r"\x1b\[(\d+)A\r\x1b\[J", part)
        lines = lines[: -int(up[1])] if up else lines + part.splitlines()
    return lines


def svg(lines: list[str]) -> str:
    """The lines as a dark terminal."""
    wide, high = round(WIDE * CHARACTER + 2 * EDGE), len(lines) * LINE + 2 * EDGE
    texts = (
        f'<text x="{EDGE}" y="{EDGE + LINE * number + 15}" xml:space="preserve">{escape(line)}</text>'
        for number, line in enumerate(lines)
    )
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{high}" viewBox="0 0 {wide} {high}">',
        "<title>migkit migrate on a terminal</title>",
        f'<rect width="{wide}" height="{high}" rx="8" fill="#1d2128"/>',
        '<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="14" fill="#d8dee9">',
        *texts, "</g>", "</svg>",
    ]) + "\n"  # fmt: skip


if __name__ == "__main__":
    os.environ["COLUMNS"] = str(WIDE)
    sys.stdout.write(svg(drawn(mk.load(TRACE))))

"""One HTML page about traces and what policies would have done to them, with its pictures beside it."""

from __future__ import annotations

import html
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from migkit import __version__, plot
from migkit.drivers.replay import Replay
from migkit.errors import MigkitError
from migkit.explanation import explain
from migkit.trace import Trace

PAGE = "index.html"

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1240px; margin: 2em auto; padding: 0 1em; color: #222; }
h1 { font-size: 1.5em; } h2 { font-size: 1.2em; margin-top: 2.2em; border-top: 1px solid #ddd; padding-top: 1em; }
table { border-collapse: collapse; margin: .6em 0; }
th, td { padding: .15em .7em; text-align: left; vertical-align: top; white-space: nowrap; font-size: 13px; }
td.again { color: #bbb; }
th { background: #f2f2f2; } tr + tr td { border-top: 1px solid #eee; } img { max-width: 100%; display: block; }
p.note { color: #555; } .wide { overflow-x: auto; }
"""


def write(
    folder: Path,
    traces: Sequence[Trace],
    runs: Mapping[str, Sequence[Replay]],
    table: pd.DataFrame,
    *,
    force: bool = False,
) -> Path:
    """Writes the page and its pictures.

    Parameters: `folder`, made when missing; `traces`; `runs`, the replays of each trace by policy label, in the order
    of `traces`; `table`, the texts to show for them, a row a trace and policy (columns as they are to be read).
    Returns the page's path. Raises MigkitError when the page exists (unless `force`) or the folder cannot be written.
    """
    page = folder / PAGE
    if page.exists() and not force:
        raise MigkitError(f"{page}: exists already; choose another folder or pass --force")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        body = [_overview(folder, traces), "<h2>What each policy would have done</h2>", _table(table), _NOTE]
        for index, trace in enumerate(traces):
            body.append(_trace(folder, trace, [series[index] for series in runs.values()], list(runs)))
        page.write_text(_page("\n".join(body)))
    except OSError as error:
        raise MigkitError(f"{page}: cannot be written ({error.strerror or error})") from None
    return page


_NOTE = """<p class="note">A replay is open-loop: the recorded migration cannot answer to an action that was not taken.
Decisions up to the first one that was not really made are <b>observed</b> (or <b>bounded</b>, where samples are too far
apart to tell the wake-up); what a policy would have done after it is <b>unknowable</b> from the trace. Times are given
with their spread over 8 phases of the monitor's 400 ms.</p>"""


def _page(body: str) -> str:
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>migkit: migrations replayed</title>"
        f"<style>{_STYLE}</style></head><body><h1>Live migrations, replayed</h1>{body}"
        f"<p class='note'>Made by migkit {__version__}.</p></body></html>"
    )


def _overview(folder: Path, traces: Sequence[Trace]) -> str:
    shown = _picture(folder, "overview.png", plot.overview(traces, columns=4 if len(traces) <= 24 else 8)[0])
    pauses = _picture(folder, "downtime.png", plot.downtime(traces)) if len(traces) else ""
    return f"{shown}<h2>How long the guests stood still</h2>{pauses}"


def _table(table: pd.DataFrame) -> str:
    """A trace's name leads to its pictures; where a row repeats the one above, it says so faintly."""
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in table.columns)
    rows, before = [], None
    for row in table.itertuples(index=False):
        again = before == row[0]
        cells = [f"<td class='again'>{html.escape(row[0])}</td>" if again else f"<td>{_link(row[0])}</td>"]
        cells += [f"<td>{html.escape(str(value))}</td>" for value in row[1:]]
        rows.append("<tr>" + "".join(cells) + "</tr>")
        before = row[0]
    return f"<div class='wide'><table><tr>{head}</tr>{''.join(rows)}</table></div>"


def _link(name: str) -> str:
    return f"<a href='#{html.escape(name)}'>{html.escape(name)}</a>"


def _trace(folder: Path, trace: Trace, runs: Sequence[Replay], labels: Sequence[str]) -> str:
    lab = trace.meta.lab
    told = f"<p>{html.escape(lab.description)}</p>" if lab and lab.description else ""
    pictures = [_picture(folder, f"{trace.name}.png", plot.convergence(trace)[0])]
    if any(len(run.decisions) for run in runs):
        axes = plot.decisions(runs, labels=labels)
        pictures.append(_picture(folder, f"{trace.name}.decisions.png", axes[0]))
    told += f"<p>{html.escape(explain(trace, thresholds=False).paragraph)}</p>"
    name = html.escape(trace.name)
    return f"<h2 id='{name}'>{name}</h2>{told}{trace._repr_html_()}{''.join(pictures)}"


def _picture(folder: Path, name: str, ax: Axes) -> str:
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.savefig(folder / name, dpi=100)
    plt.close(figure)
    return f"<img src='{urllib.parse.quote(name)}' alt='{html.escape(name.removesuffix('.png'))}'>"

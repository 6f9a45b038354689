"""Sliders over a policy's options, in JupyterLab: what each setting does to one migration, or to many at once."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from migkit.drivers.sweep.fate import Fate, Fates
from migkit.drivers.sweep.settings import expand
from migkit.errors import MigkitError
from migkit.plot.migration import BLUE, GREY, RED
from migkit.plot.tuning import MARKS
from migkit.policies.versions import Policy
from migkit.trace import Trace
from migkit.units import MIB, format_s

# As many points as a line has across a picture.
_POINTS: Final = 300


def explore(traces: Trace | Sequence[Trace], policy: Policy, **lists: Iterable[Any]) -> Any:
    """A slider an option over its listed values, and a picture that follows: the remaining data of the migrations, each
    with the first thing that the setting does to it.

    Parameters: `traces`, one or many; `policy`, whose other options stay; the options as for `sweep`:
    `stall_margin=[2, 4, 8]`. Returns an ipywidgets box. Raises MigkitError where ipywidgets is not installed,
    UsageError for a value that cannot be.
    """
    try:
        import ipywidgets as widgets
    except ImportError:
        raise MigkitError("sliders need ipywidgets: pip install 'migkit[notebook]'") from None
    expand(policy, lists)
    listed = [traces] if isinstance(traces, Trace) else list(traces)
    sliders = {
        name: widgets.SelectionSlider(
            options=list(values),
            value=_start(policy, name, list(values)),
            description=name,
            continuous_update=True,
            style={"description_width": f"{max(map(len, lists))}ch"},
            layout={"width": "36em"},
        )
        for name, values in lists.items()
    }
    picture, said = widgets.Image(format="png"), widgets.HTML()
    draw = drawing(listed, policy)

    def follow(_change: object = None) -> None:
        picture.value, text = draw({name: slider.value for name, slider in sliders.items()})
        said.value = f"<pre>{text}</pre>"

    for slider in sliders.values():
        slider.observe(follow, names="value")
    follow()
    return widgets.VBox([*sliders.values(), said, picture])


def _start(policy: Policy, name: str, values: list[Any]) -> Any:
    """The policy's own value where it is listed, else the first."""
    own = policy.options.get(name)
    return own if own in values else values[0]


def drawing(traces: Sequence[Trace], policy: Policy) -> Callable[[Mapping[str, Any]], tuple[bytes, str]]:
    """A function from a setting (option -> value) to a PNG and a line about it. The curves are drawn once; a call
    moves the marks only."""
    fates = Fates(traces, policy)
    figure = Figure(figsize=(9, 4.2), dpi=80)
    canvas: Any = FigureCanvasAgg(figure)
    ax = figure.subplots()
    figure.subplots_adjust(left=0.08, right=0.98, bottom=0.13, top=0.93)
    many = len(traces) > 1
    curves = [_thin(trace, share=many) for trace in traces]
    for t, left in curves:
        ax.plot(t, left, color=GREY if many else BLUE, lw=0.8, alpha=0.6 if many else 1)
    ax.set_xlabel("time since the job began (s)")
    ax.set_ylabel("remaining (% of the most)" if many else "remaining (MiB)")
    ax.set_ylim(0, max(float(np.nanmax(left)) for _, left in curves) * 1.1)
    ax.set_xlim(0, max(float(t[-1]) for t, _ in curves) * 1.02)
    marks = {
        what: ax.plot([], [], marker, color=colour, ms=9, ls="none")[0] for what, (marker, colour) in MARKS.items()
    }
    wrong = ax.plot([], [], "o", mfc="none", mec=RED, ms=16, mew=2, ls="none")[0]
    _legend(ax)
    canvas.draw()
    background = canvas.copy_from_bbox(figure.bbox)

    def draw(setting: Mapping[str, Any]) -> tuple[bytes, str]:
        found = fates.under(setting)
        canvas.restore_region(background)
        for what, line in marks.items():
            own = [i for i, one in enumerate(found) if one.what == what]
            line.set_data([found[i].t_s for i in own], [_height(curves[i], found[i].t_s) for i in own])
            ax.draw_artist(line)
        false = [i for i, one in enumerate(found) if one.false]
        wrong.set_data([found[i].t_s for i in false], [_height(curves[i], found[i].t_s) for i in false])
        ax.draw_artist(wrong)
        out = io.BytesIO()
        _save(canvas, out)
        return out.getvalue(), _told(traces, found)

    return draw


def _legend(ax: Axes) -> None:
    words = {"X": "abort", "v": "post-copy", "s": "pause", "^": "raised downtime"}
    colours = dict(MARKS.values())
    handles = [Line2D([], [], marker=m, color=colours[m], ls="none", label=word) for m, word in words.items()]
    ring = Line2D(
        [], [], marker="o", mfc="none", mec=RED, ms=10, mew=2, ls="none", label="would have completed by itself"
    )
    ax.legend(handles=[*handles, ring], loc="upper right", ncols=5, fontsize=8, frameon=False)


def _save(canvas: Any, out: io.BytesIO) -> None:
    """The canvas as it stands, without drawing it anew; a weak compression, as it is for one look."""
    from PIL import Image

    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(out, "png", compress_level=1)


def _thin(trace: Trace, *, share: bool) -> tuple[Any, Any]:
    """Remaining data over time in no more points than can be seen: MiB, or the share of the most in percent."""
    t, left = trace.t_s[trace.active], trace.column("data_remaining_bytes")[trace.active]
    keep = np.unique(np.linspace(0, len(t) - 1, _POINTS).astype(int))
    return t[keep], left[keep] / (np.nanmax(left) / 100 if share else MIB)


def _height(curve: tuple[Any, Any], t_s: float) -> float:
    return float(np.interp(t_s, *curve))


def _told(traces: Sequence[Trace], found: Sequence[Fate]) -> str:
    if len(traces) == 1:
        one: Fate = found[0]
        return one.what + (f" after {format_s(one.t_s)}" if one.acts else "") + (" - a false one" if one.false else "")
    counts: dict[str, int] = {}
    for one in found:
        counts[one.what] = counts.get(one.what, 0) + 1
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items(), key=lambda pair: -pair[1])) + (
        f"; {sum(one.false for one in found)} wrongly"
    )

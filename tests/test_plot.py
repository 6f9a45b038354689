"""Pictures as data: what is drawn, in which unit, with which labels. How they look is looked at by people."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from matplotlib.axes import Axes

import migkit as mk
from migkit.units import MIB


def labels(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    return [text.get_text() for text in legend.get_texts()] if legend else []


def test_convergence_draws_three_linked_panels_with_units(bundled):
    axes = mk.plot.convergence(bundled["stall_link"])
    assert [ax.get_ylabel() for ax in axes] == ["remaining (MiB)", "rate (MiB/s)", "expected downtime"]
    assert axes[-1].get_xlabel() == "time since the job began (s)"
    assert len({ax.get_xlim() for ax in axes}) == 1
    assert labels(axes[1]) == ["bandwidth (data processed)", "bandwidth (libvirt's memory_bps)", "dirty rate"]


def test_the_remaining_curve_is_the_traces_own(bundled):
    trace = bundled["noconverge_abort"]
    line = mk.plot.convergence(trace)[0].lines[0]
    assert np.allclose(line.get_ydata(), trace.column("data_remaining_bytes")[trace.active] / MIB)


def test_disk_and_memory_are_stacked(bundled):
    assert labels(mk.plot.convergence(bundled["block_raw"])[0]) == ["memory", "disk"]


def test_events_and_actions_are_named(bundled):
    texts = [t.get_text() for t in mk.plot.convergence(bundled["stall_link"])[0].texts]
    assert texts == ["link down", "link up", "switchover"]


def test_every_bundled_trace_can_be_drawn(bundled):
    import matplotlib.pyplot as plt

    for trace in bundled.values():
        figure = mk.plot.convergence(trace)[0].figure
        figure.canvas.draw()
        plt.close(figure)
    assert len(mk.plot.overview(list(bundled.values()))) == len(bundled)


def test_downtime_shows_a_row_a_completed_migration(bundled):
    ax = mk.plot.downtime(bundled.values())
    names = [tick.get_text() for tick in ax.get_yticklabels()]
    assert {"block_raw", "stall_link", "postcopy_switch"} <= set(names)
    assert "noconverge_abort" not in names
    assert ax.get_xscale() == "log"


def test_downtime_keeps_kinds_together_and_every_point_in_sight(bundled):
    beat, end = bundled["idle"].meta.heartbeat, bundled["idle"].meta.end
    short = bundled["idle"].replace_meta(end=dataclasses.replace(end, completed={"downtime": 1}), heartbeat=beat)
    ax = mk.plot.downtime([bundled["post-copy"], short, bundled["suspend-midway"], bundled["converge-fast"]])
    names = [tick.get_text() for tick in ax.get_yticklabels()]
    assert names == ["suspend-midway", "post-copy", "converge-fast", "idle"]
    assert [text.get_text() for text in ax.texts] == ["suspended", "post-copy", "pre-copy"]
    assert ax.get_xlim()[0] < 1


def test_decisions_have_a_lane_a_policy(bundled):
    trace = bundled["stall_link"]
    policies = {"patient": mk.kubevirt("1.8"), "tight": mk.kubevirt("1.8", progress_timeout=5)}
    runs = [mk.replay(trace, policy) for policy in policies.values()]
    axes = mk.plot.decisions(runs, labels=list(policies))
    assert [tick.get_text() for tick in axes[1].get_yticklabels()] == ["patient", "tight"]
    drawn = [line for line in axes[1].lines if line.get_marker() == "X"]
    assert [line.get_xdata()[0] for line in drawn] == [pytest.approx(runs[1].decisions["t_s"].iloc[0])]


def test_plots_draw_on_axes_they_are_given(bundled):
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(3, 1)
    assert mk.plot.convergence(bundled["stall_link"], axes=list(axes)) == list(axes)
    assert plt.get_fignums() == [1]


def test_a_simulated_trace_says_so_in_its_picture(bundled):
    trace = bundled["stall_link"].replace_meta(provenance="simulated")
    figure = mk.plot.convergence(trace)[0].figure
    assert "SIMULATED" in figure.get_suptitle()


def test_the_inner_life_of_a_stall_detector_can_be_drawn(bundled):
    policy = mk.policy("kubevirt-1.9-stall", stall_progress_timeout=10, completion_timeout_per_gib=20)
    axes = mk.plot.decisions(mk.replay(bundled["noconverge_abort"], policy), internals=True)
    assert len(axes) == 3
    assert labels(axes[0]) == [
        "memory", "least before the window", "stall threshold", "best remaining", "switchover target",
    ]  # fmt: skip
    assert "smoothed by the monitor" in labels(axes[1])
    assert "completion deadline" in labels(axes[1])


def test_the_downtime_limit_is_drawn_as_it_was_raised(bundled):
    trace = bundled["downtime-raised"]
    assert list(mk.stats.downtime_limits(trace)["limit_ms"]) == [300, 1500]
    assert "limit 300 ms then 1.50 s" in labels(mk.plot.convergence(trace)[2])


def test_a_set_without_any_pause_can_be_drawn(bundled):
    ax = mk.plot.downtime([bundled["noconverge_abort"]])
    ax.figure.canvas.draw()
    assert ax.get_title() == "no completed migration tells a pause"

"""A running migration on a terminal: a few lines that are drawn anew, or a line now and then where there is none."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
import time
from typing import Any, Final, TextIO

from migkit.capture.outcome import MIGRATE
from migkit.drivers.beside import Beside
from migkit.schema import JOB_UNBOUNDED
from migkit.units import format_bps, format_bytes, format_ms, format_s

Row = dict[str, Any]

DRAW_S: Final = 0.2
JSON_S: Final = 1.0
LINE_S: Final = 10.0
_BAR: Final = 30
# As wide as a decision's moment; where nearly nothing would be left beside it, there is none.
_INDENT: Final = 11
_TOLD: Final = (
    "time_elapsed_ms", "data_remaining_bytes", "data_total_bytes", "memory_bps", "memory_dirty_rate_pages_per_s",
    "memory_page_size_bytes", "memory_iteration", "downtime_ms", "auto_converge_throttle_percent",
)  # fmt: skip


class View:
    """What all views know: the newest statistics of the running migration, decisions that were not yet shown. `early`:
    it has something to show while libvirt still prepares the migration and all its numbers are zeros."""

    early = False

    def __init__(self, beside: Beside, every_s: float) -> None:
        self.beside, self._every_s = beside, every_s
        self.newest: Row = {}
        self._shown, self._drawn_s = 0, 0.0

    def begun(self, beside: Beside) -> None:
        """The monitor has been started."""

    def saw(self, row: Row) -> None:
        """A row of the trace."""
        if row.get("job_type") == JOB_UNBOUNDED and (is_counted(row) or not is_counted(self.newest)):
            self.newest = row
        if row.get("action") == MIGRATE or (row.get("action") == "abort" and self.beside.cancelling):
            self.called(row)

    def tick(self) -> None:
        """Shows what there is, not too often."""
        for told in self.beside.decided(self._shown):
            self._shown += 1
            self.decided(told)
        now_s = time.monotonic()
        if self.newest and (self.early or is_counted(self.newest)) and now_s - self._drawn_s >= self._every_s:
            self._drawn_s = now_s
            self.progress()

    def decided(self, told: Row) -> None:
        """A decision."""

    def called(self, row: Row) -> None:
        """The migrate call has returned, or somebody aborted."""

    def said(self, text: str) -> None:
        """Something that is not a decision."""

    def progress(self) -> None:
        """How it goes."""

    def close(self) -> None:
        """Nothing more will come."""
        self._drawn_s = 0.0
        self.tick()


class JsonView(View):
    """A JSON object a line: begun, decision, progress (once a second), returned; the caller adds the end."""

    def __init__(self, beside: Beside) -> None:
        super().__init__(beside, JSON_S)

    def begun(self, beside: Beside) -> None:
        domain, policy = beside.facts.domain, beside.policy
        self._print("begun", domain=domain.name, policy=policy.name, options=dict(policy.options), acts=beside.acts)

    def decided(self, told: Row) -> None:
        self._print("decision", acted=self.beside.acts, **told)

    def called(self, row: Row) -> None:
        told = {name: row.get(name) for name in ("action", "succeeded", "error_code", "error_text")}
        self._print("call", **told)

    def said(self, text: str) -> None:
        self._print("note", text=text)

    def progress(self) -> None:
        moment = self.beside.moment
        known = {name: self.newest[name] for name in _TOLD if name in self.newest}
        passing = [] if moment is None else [{"what": what, "in_s": round(in_s, 3)} for what, in_s in moment.deadlines]
        self._print("progress", **known, deadlines=passing)

    def _print(self, event: str, **values: Any) -> None:
        print(json.dumps({"event": event, **values}), flush=True)


class LineView(View):
    """Plain lines on stderr: each decision, and one every ten seconds."""

    def __init__(self, beside: Beside, out: TextIO | None = None, every_s: float = LINE_S) -> None:
        super().__init__(beside, every_s)
        self.out = out or sys.stderr

    def begun(self, beside: Beside) -> None:
        does = "acts" if beside.acts else "only says what it would do"
        self.said(f"{beside.facts.domain.name}: the migration runs; {beside.policy} {does}")

    def decided(self, told: Row) -> None:
        self.said(decision_line(told, acts=self.beside.acts))

    def called(self, row: Row) -> None:
        if row["action"] == "abort":
            done = "cancelling it" if row["succeeded"] else f"it cannot be cancelled: {row['error_text']}"
            self.said(f"{done}; Ctrl-C again stops watching")

    def said(self, text: str) -> None:
        self.out.write(text + "\n")
        self.out.flush()

    def progress(self) -> None:
        self.said("  ".join(state_parts(self.newest)))


class ScreenView(LineView):
    """Lines that are drawn over themselves at the bottom, while decisions scroll away above them."""

    early = True

    def __init__(self, beside: Beside, out: TextIO | None = None) -> None:
        super().__init__(beside, out, DRAW_S)
        self._height = 0

    def said(self, text: str) -> None:
        wide = shutil.get_terminal_size().columns
        indent = " " * (_INDENT if wide > 2 * _INDENT else 0)
        self._write(textwrap.wrap(text, max(wide - 1, 1), subsequent_indent=indent), keep=True)
        if self.newest:
            self.progress()

    def progress(self) -> None:
        wide = shutil.get_terminal_size().columns
        moment = self.beside.moment
        lines = [bar(self.newest, wide), "  ".join(state_parts(self.newest)[1:])]
        if moment is not None:
            lines.append(next_line(moment.deadlines, moment.values, ended=moment.ended, acts=self.beside.acts))
        self._write([line[: wide - 1] for line in lines], keep=False)

    def close(self) -> None:
        super().close()
        self._height = 0

    def _write(self, lines: list[str], *, keep: bool) -> None:
        up = f"\x1b[{self._height}A\r\x1b[J" if self._height else ""
        self._height = 0 if keep else len(lines)
        self.out.write(up + "".join(f"{line}\n" for line in lines))
        self.out.flush()


def make(beside: Beside, *, as_json: bool) -> View:
    """The view for where the output goes."""
    if as_json:
        return JsonView(beside)
    screen = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return ScreenView(beside) if screen else LineView(beside)


def decision_line(told: Row, *, acts: bool) -> str:
    """A decision as a person reads it: when, what, why, on which evidence."""
    from migkit.cli.replay import action_text

    done = "" if told["succeeded"] else " FAILS"
    would = "" if acts else "would "
    what = action_text(told["action"], told["argument"])
    return f"{told['t_s']:7.1f} s  {would}{what}{done}  {told['reason']}: {told['evidence']}"


def is_counted(row: Row) -> bool:
    """Whether libvirt has begun to count; until then all its numbers are zeros."""
    return bool(row.get("data_total_bytes"))


def bar(row: Row, wide: int) -> str:
    """How much of the data has gone, as a bar; it goes back where the guest writes faster than it is sent."""
    total, left = row.get("data_total_bytes") or 0, row.get("data_remaining_bytes") or 0
    share = 1 - left / total if total else 0.0
    room = max(10, min(_BAR, wide - 50))
    full = int(share * room)
    drawn = f"[{'#' * full}{'.' * (room - full)}] {share:4.0%}"
    elapsed = format_s(row.get("time_elapsed_ms", 0) // 1000)
    if not total:
        return f"[{'.' * room}]    –  preparing  {elapsed}"
    return f"{drawn}  {format_bytes(left)} left of {format_bytes(total)}  {elapsed}"


def state_parts(row: Row) -> list[str]:
    """The numbers that matter, each with its name; a dash for all of them while there are none."""
    if not is_counted(row):
        return [f"{format_s(row.get('time_elapsed_ms', 0) / 1000)}: preparing", "–"]
    page = row.get("memory_page_size_bytes") or 4096
    parts = [
        f"{format_s(row.get('time_elapsed_ms', 0) / 1000)}: {format_bytes(row.get('data_remaining_bytes') or 0)} left"
    ]
    if "memory_bps" in row:
        parts.append(f"bandwidth {format_bps(row['memory_bps'])}")
    if row.get("memory_dirty_rate_pages_per_s"):
        parts.append(f"dirty rate {format_bps(row['memory_dirty_rate_pages_per_s'] * page)}")
    parts.append(f"iteration {row.get('memory_iteration', 0)}")
    if row.get("downtime_ms"):
        parts.append(f"expected downtime {format_ms(row['downtime_ms'])}")
    if row.get("auto_converge_throttle_percent"):
        parts.append(f"throttle {row['auto_converge_throttle_percent']} %")
    return parts


def next_line(deadlines: list[tuple[str, float]], values: Row, *, ended: bool, acts: bool = True) -> str:
    """What the rule waits for; one that does not act believes that its calls were made."""
    if ended:
        return "the rule has ended"
    post_copy = "post-copy" if acts else "as if post-copy had begun"
    mode = {"PostCopy": f"{post_copy}: the rule only looks on", "Paused": "the rule takes the guest as paused"}.get(
        values["mode"]
    )
    told = [mode] if mode else []
    if values["abort_status"]:
        told.append(f"abort {values['abort_status'].lower()}")
    told += [f"{what} in {format_s(max(0.0, in_s))}" if in_s > 0 else f"{what} has passed" for what, in_s in deadlines]
    if values["stalled"]:
        told.append("stalled")
    return "; ".join(told) or "no deadline"

"""The heartbeat's arithmetic, and the listener that stamps it."""

from __future__ import annotations

import socket
from pathlib import Path

from migkit.lab.heartbeat import Line, Listener, corrupted, measure, said

MS = 1_000_000


def beats(connection: int, *at_ms: float) -> list[Line]:
    return [Line(connection, int(at * MS), f"hb {n}") for n, at in enumerate(at_ms)]


def measured(lines: list[Line]) -> tuple[float | None, float | None, float | None]:
    beat = measure(lines, interval_ms=10, since_ns=0, until_ns=10_000 * MS)
    return beat.downtime_ms, beat.p99_gap_ms, beat.largest_gap_ms


def test_downtime_is_from_the_last_beat_here_to_the_first_there() -> None:
    lines = beats(0, 0, 10, 20, 30) + beats(1, 95, 105, 118)
    assert measured(lines) == (65, 13, 65)


def test_the_rest_of_a_cut_line_is_already_a_sign_of_life() -> None:
    assert measured([*beats(0, 0, 10), Line(1, 40 * MS, "17"), *beats(1, 49)])[0] == 30


def test_a_guest_that_stayed_has_no_downtime() -> None:
    assert measured(beats(0, 0, 10, 25)) == (None, 15, 15)


def test_a_guest_that_never_beat_tells_nothing() -> None:
    assert measured([Line(0, 5, "ready 256 0")]) == (None, None, None)


def test_the_downtime_counts_as_a_gap_but_not_for_the_resolution() -> None:
    regular = [n * 10.0 for n in range(100)]
    lines = beats(0, *regular) + beats(1, *(5000 + at for at in regular), 6040)
    downtime_ms, p99_gap_ms, largest_gap_ms = measured(lines)
    assert (downtime_ms, p99_gap_ms, largest_gap_ms) == (4010, 10, 4010)


def test_beats_outside_the_window_do_not_count() -> None:
    lines = beats(0, 0, 500, 510, 520) + beats(1, 560)
    beat = measure(lines, interval_ms=10, since_ns=400 * MS, until_ns=550 * MS)
    assert (beat.downtime_ms, beat.largest_gap_ms) == (None, 10)


def test_a_bad_page_means_a_corrupted_guest() -> None:
    assert not corrupted(beats(0, 1, 2))
    assert corrupted([*beats(0, 1, 2), Line(1, 3, "bad 17 4000")])


def test_the_listener_tells_connections_apart_and_waits_for_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "serial"
    with Listener(path) as listener, socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        first.connect(str(path))
        first.sendall(b"hb 0\r\nhb 1\nh")
        assert listener.wait_for(lambda lines: len(lines) == 2, 5)
        second.connect(str(path))
        first.sendall(b"b 2\n")
        assert listener.wait_for(lambda lines: len(lines) == 3, 5)
        second.sendall(b"ok 1 5\n")
        assert listener.wait_for(lambda lines: len(lines) == 4, 5)
        assert [(line.connection, line.text) for line in listener.lines] == [
            (0, "hb 0"), (0, "hb 1"), (0, "hb 2"), (1, "ok 1 5"),
        ]  # fmt: skip
        assert said(listener.lines, "ok", 1)
        assert not said(listener.lines, "ok", 0)
        assert not listener.wait_for(lambda lines: len(lines) == 9, 0)
    assert not path.exists()

"""What is done to a migration and its hosts, in time, with a row each, and undone at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from migkit.lab import hosts
from migkit.lab.actions import _UNDO, Actions
from migkit.lab.control import Outcome
from migkit.lab.scenario import ACTIONS, Action, Guest, Migration, Scenario

pytest.importorskip("libvirt")


class FakeHost:
    """Remembers what was done to it."""

    def __init__(self, name: str) -> None:
        self.name, self.address = name, f"address of {name}"
        self.done: list[tuple[Any, ...]] = []
        self.has_daemon, self.has_socket = True, True

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def remember(*values: Any, **named: Any) -> Any:
            self.done.append((name, *values, *named.values()))
            return {"kill_daemon": self.has_daemon, "cut_socket": self.has_socket, "qemu": None}.get(name)

        return remember


@pytest.fixture
def pair() -> tuple[FakeHost, FakeHost]:
    return FakeHost("a"), FakeHost("b")


def performed(pair: tuple[FakeHost, FakeHost], *wanted: Action, link_mibps: float | None = None) -> Actions:
    """The actions done; those that are undone later are still in force."""
    asked: list[tuple[Any, ...]] = []

    def act(*words: Any) -> Outcome:
        asked.append(words)
        if len(asked) + sum(action.do not in _LIBVIRTS for action in wanted) >= len(wanted):
            ended.set()
        return Outcome(succeeded=True)

    lab = SimpleNamespace(a=pair[0], b=pair[1], hosts=pair)
    scenario = Scenario(
        name="mine", description="", seconds=1, guest=Guest(), actions=wanted,
        migration=Migration(bandwidth_mibps=40, link_mibps=link_mibps),
    )  # fmt: skip
    ended = threading.Event()
    control: Any = SimpleNamespace(lab=lab, act=act)
    actions = Actions(control, "mine", scenario, time.monotonic_ns())
    actions.perform(ended, 0.2)
    return actions


_LIBVIRTS = {"start_post_copy", "suspend", "abort", "set_max_downtime", "set_bandwidth", "destroy_guest"}


def test_every_action_of_a_scenario_is_known_to_somebody(pair: tuple[FakeHost, FakeHost]) -> None:
    known = set(performed(pair)._on_hosts()) | _LIBVIRTS
    assert known == set(ACTIONS) | set(_UNDO.values())
    assert all("seconds" in ACTIONS[action] for action in _UNDO)


def test_a_slow_link_carries_a_share_of_the_bandwidth_and_is_restored(pair: tuple[FakeHost, FakeHost]) -> None:
    actions = performed(pair, Action(at_s=0, do="slow_link", percent=10, seconds=60))
    assert pair[0].done == [("limit_link", 4.0)]
    assert actions.undo() == []
    assert pair[0].done[-1] == ("limit_link", None)
    assert [(row["action"], row.get("argument")) for row in actions.rows] == [("slow_link", 10), ("restore_link", None)]


def test_the_share_is_of_the_links_own_bandwidth_where_it_has_one(pair: tuple[FakeHost, FakeHost]) -> None:
    actions = performed(pair, Action(at_s=0, do="slow_link", percent=50, seconds=60), link_mibps=16)
    actions.undo()
    assert pair[0].done == [("limit_link", 8.0), ("limit_link", 16)]


def test_a_blocked_port_is_opened_again(pair: tuple[FakeHost, FakeHost]) -> None:
    performed(pair, Action(at_s=0, do="block_port", seconds=60)).undo()
    assert pair[0].done == [("block_port", True), ("block_port", False)]


@pytest.mark.parametrize(("action", "host"), [("restart_source_daemon", 0), ("restart_destination_daemon", 1)])
def test_a_daemon_is_killed_and_started_again(pair: tuple[FakeHost, FakeHost], action: str, host: int) -> None:
    actions = performed(pair, Action(at_s=0, do=action))
    assert pair[host].done == [("kill_daemon",), ("start_daemon",)]
    assert pair[1 - host].done == []
    assert actions.rows[0]["succeeded"]


def test_a_daemon_that_is_not_there_is_not_started(pair: tuple[FakeHost, FakeHost]) -> None:
    pair[0].has_daemon = False
    row = performed(pair, Action(at_s=0, do="restart_source_daemon")).rows[0]
    assert (row["succeeded"], row["error_text"]) == (False, "no libvirtd on host a")


def test_a_socket_that_is_not_there_cannot_be_cut(pair: tuple[FakeHost, FakeHost]) -> None:
    pair[0].has_socket = False
    assert not performed(pair, Action(at_s=0, do="cut_socket")).rows[0]["succeeded"]
    assert pair[0].done == [("cut_socket", "address of b")]


def test_a_destination_without_a_guest_cannot_be_killed(pair: tuple[FakeHost, FakeHost]) -> None:
    row = performed(pair, Action(at_s=0, do="kill_destination")).rows[0]
    assert (row["succeeded"], row["error_text"]) == (False, "no QEMU of mine on host b")


def test_what_came_too_late_is_named(pair: tuple[FakeHost, FakeHost]) -> None:
    actions = performed(pair, Action(at_s=500, do="abort"), Action(at_s=400, do="link_down", seconds=3))
    assert actions.undo() == ["link_down", "abort"]
    assert actions.rows == []


def test_the_link_is_limited_by_a_token_bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    said = calls(monkeypatch, "qdisc tbf 8001: root refcnt 3")
    host = hosts.Host(name="a", folder=tmp_path, address="x", holder=1, net_ns=1)
    host.limit_link(2)
    assert "rate 16777216bit burst 65536" in said[-1]
    host.limit_link(None)
    assert said[-1].endswith(f"qdisc del dev {hosts.LINK} root")


def test_a_link_without_a_limit_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    said = calls(monkeypatch, "qdisc noqueue 0: root refcnt 2")
    hosts.Host(name="a", folder=tmp_path, address="x", holder=1, net_ns=1).limit_link(None)
    assert len(said) == 1


def test_a_rule_that_is_there_is_taken_away_before_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    said = calls(monkeypatch, f"-A OUTPUT -p tcp --dport {hosts.MIGRATION_PORTS} -j DROP")
    hosts.Host(name="a", folder=tmp_path, address="x", holder=1, net_ns=1).block_port(blocked=True)
    assert [line.split()[1] for line in said] == ["-S", "-D", "-I"]


def calls(monkeypatch: pytest.MonkeyPatch, answer: str) -> list[str]:
    """What a host is made to run, each answered alike."""
    said: list[str] = []

    def call(host: hosts.Host, *words: str) -> str:
        said.append(" ".join(words))
        return answer

    monkeypatch.setattr(hosts.Host, "call", call)
    return said

"""The script behind `--via`: what it runs, and that nothing of it is left."""

from __future__ import annotations

import os
import stat
import subprocess
import urllib.parse
from pathlib import Path

import pytest

from migkit.capture.relay import Relay, commands
from migkit.errors import MigkitError, UsageError


def script_of(relay: Relay) -> Path:
    return Path(urllib.parse.parse_qs(urllib.parse.urlsplit(relay.uri).query)["command"][0])


def test_the_helper_runs_behind_the_prefix_read_only():
    tries, path = commands("env A='b c' ip netns exec a", "qemu:///session")
    assert tries == [["env", "A=b c", "ip", "netns", "exec", "a", "virt-ssh-helper", "-r", "qemu:///session"]]
    assert path == "/session"


def test_a_socket_is_reached_by_either_relay():
    tries, _ = commands("env", "qemu:///system", "/run/libvirt/s")
    assert tries == [["env", "nc", "-U", "/run/libvirt/s"], ["env", "socat", "-", "UNIX-CONNECT:/run/libvirt/s"]]


def test_the_script_is_private_and_passes_arguments_as_they_are():
    relay = Relay(["sh", "-c", 'echo "$0"; cat; echo "it\'s here" >&2', "a  'b' $HOME"], "/system")
    script = script_of(relay)
    assert stat.S_IMODE(os.stat(script).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(script.parent).st_mode) == 0o700
    done = subprocess.run([script], input="through", capture_output=True, text=True, check=True)
    assert done.stdout == "a  'b' $HOME\nthrough"
    assert relay.last_error() == "it's here"
    relay.close()
    assert not script.parent.exists()
    assert relay.last_error() == ""


@pytest.mark.parametrize(
    ("prefix", "uri", "said"),
    [
        ("no-such-command -x", "qemu:///system", "no command 'no-such-command'"),
        ("ssh 'host", "qemu:///system", "not a command line"),
        ("  ", "qemu:///system", "is missing"),
        ("env", "qemu+tcp://host/system", "give -c qemu:///system"),
        ("env", "qemu://host/system", "give -c qemu:///system"),
        ("env", "xen:///system", "give -c qemu:///system"),
    ],
)
def test_what_cannot_be_is_said(prefix, uri, said):
    with pytest.raises(MigkitError, match=said):
        commands(prefix, uri)


def test_a_wrong_call_is_a_usage_error():
    with pytest.raises(UsageError):
        commands("env", "qemu+ssh://host/system")

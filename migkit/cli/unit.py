"""A systemd unit for a watcher, with no more rights than it needs."""

from __future__ import annotations

import argparse
import shutil
import sys
import urllib.parse
from pathlib import Path

from migkit.errors import UsageError

_STATE = Path("/var/lib")

_UNIT = """\
[Unit]
Description=migkit: records every live migration of this host
Documentation=https://libvirt.org/migration.html
Wants=network-online.target
After=network-online.target libvirtd.service virtqemud.service

[Service]
ExecStart={command}
Restart=on-failure
RestartSec=10
# The watcher ends its recordings and makes their traces; its helper ends with it.
KillMode=mixed
TimeoutStopSec=120

# A user of its own. The group opens libvirt's read-only socket where polkit does not.
DynamicUser=yes
SupplementaryGroups=libvirt
StateDirectory={state}
UMask=0027

ProtectSystem=strict
ProtectHome={home}
PrivateTmp=yes
PrivateDevices=yes
PrivateNetwork={offline}
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProcSubset=pid
NoNewPrivileges=yes
CapabilityBoundingSet=
RestrictAddressFamilies={families}
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


def unit(arguments: argparse.Namespace) -> str:
    """The unit that runs this command. Raises UsageError where the folder is none that a service may write."""
    output = Path(arguments.output).resolve()
    if _STATE not in output.parents:
        raise UsageError(f"-o {arguments.output}: a service keeps its traces below {_STATE}, e.g. -o {_STATE}/migkit")
    program = shutil.which("migkit") or str(Path(sys.executable).with_name("migkit"))
    local = not urllib.parse.urlsplit(arguments.connect).netloc and not arguments.via
    return _UNIT.format(
        command=" ".join(_quoted(word) for word in (program, *_words(arguments, output))),
        state=_word(str(output.relative_to(_STATE))),
        home="read-only" if Path(program).is_relative_to("/home") or Path(program).is_relative_to("/root") else "yes",
        offline="yes" if local else "no",
        families="AF_UNIX" if local else "AF_UNIX AF_INET AF_INET6",
    )


def _words(arguments: argparse.Namespace, output: Path) -> list[str]:
    words = ["watch", "--connect", arguments.connect, "--output", str(output), "--interval", f"{arguments.interval:g}"]
    for option, value in (("--keep-bytes", arguments.keep_bytes), ("--via", arguments.via),
                          ("--via-socket", arguments.via_socket)):  # fmt: skip
        words += [] if value is None else [option, value]
    if arguments.keep_days is not None:
        words += ["--keep-days", f"{arguments.keep_days:g}"]
    for option, values in (("--shadow", arguments.policy), ("--set", arguments.set)):
        words += [word for value in values for word in (option, value)]
    words += [word for file in arguments.config for word in ("--config", str(Path(file).resolve()))]
    return words + [
        option for option, given in (("--mask-names", arguments.mask_names), ("--json", arguments.json)) if given
    ]


def _quoted(word: str) -> str:
    """A word of a unit's command line: no variable either."""
    return _word(word.replace("$", "$$"))


def _word(word: str) -> str:
    """A word of a unit: no specifier, no space that divides."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{word}"' if not word or any(c.isspace() or c in "'\";" for c in word) else word

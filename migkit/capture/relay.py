"""libvirt behind a command: `kubectl exec ...`, `ssh host`, `ip netns exec a`.

libvirt's `ext` transport runs a program and speaks its protocol over the program's stdin and stdout. The program is
a small script made here that runs libvirt's own helper, or a relay to a socket, behind the prefix.
"""

from __future__ import annotations

import atexit
import os
import shlex
import shutil
import tempfile
import urllib.parse
from pathlib import Path
from typing import Final

from migkit.errors import MigkitError, UsageError

_LOCAL: Final = ("", "unix")


class Relay:
    """The script behind a `qemu+ext` URI, in a private folder until `close`.

    Parameters: `command` what speaks libvirt's protocol on stdin and stdout; `path` of the URI, /system or /session.
    """

    def __init__(self, command: list[str], path: str) -> None:
        self.command = command
        self._folder = Path(tempfile.mkdtemp(prefix="migkit-", dir=_executable_folder()))
        # Should the process end without close(); a kill leaves two small files in the temporary folder.
        atexit.register(self.close)
        self._errors = self._folder / "stderr"
        script = self._folder / "relay"
        script.write_text(f"#!/bin/sh\nexec {shlex.join(command)} 2>>{shlex.quote(str(self._errors))}\n")
        script.chmod(0o700)
        self.uri = f"qemu+ext://{path}?command={urllib.parse.quote(str(script))}"

    def last_error(self) -> str:
        """The last line that the command wrote on its stderr."""
        try:
            lines = self._errors.read_text(errors="replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def close(self) -> None:
        """Removes the script."""
        shutil.rmtree(self._folder, ignore_errors=True)
        atexit.unregister(self.close)


def commands(prefix: str, uri: str, socket: str | None = None) -> tuple[list[list[str]], str]:
    """What may be run behind the prefix, in the order to try, and the path of the URI.

    Raises UsageError when the prefix is no command line or the URI is not local to the place behind it.
    """
    parts = urllib.parse.urlsplit(uri)
    driver, _, transport = parts.scheme.partition("+")
    if driver != "qemu" or transport not in _LOCAL or parts.netloc:
        raise UsageError(f"--via leads to a machine where libvirt is local: give -c qemu:///system, not {uri}")
    try:
        words = shlex.split(prefix)
    except ValueError as error:
        raise UsageError(f"--via {prefix!r}: not a command line ({error})") from None
    if not words:
        raise UsageError("--via: the command in front of which libvirt's helper runs is missing")
    if shutil.which(words[0]) is None:
        raise MigkitError(f"--via: no command {words[0]!r} on this machine")
    if socket is not None:
        return [[*words, "nc", "-U", socket], [*words, "socat", "-", f"UNIX-CONNECT:{socket}"]], parts.path
    return [[*words, "virt-ssh-helper", "-r", uri]], parts.path


def _executable_folder() -> str | None:
    """A temporary folder from which a script may be run; some machines forbid it in /tmp."""
    places = [tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", ""), str(Path.home())]
    for place in places:
        try:
            if place and not os.statvfs(place).f_flag & os.ST_NOEXEC and os.access(place, os.W_OK):
                return place
        except OSError:
            continue
    return None

"""The errors a caller of migkit may want to catch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MigkitError(Exception):
    """Something the user can mend: one line that says what is wrong, where, and what to do."""


class UsageError(MigkitError):
    """The call itself is off: an unknown option, policy or name. The command line exits with 2."""


class RefusedError(MigkitError):
    """Libvirt refused to begin a migration. Attributes: `error_code` and `error_text`, its own."""

    def __init__(self, message: str, *, error_code: int, error_text: str) -> None:
        super().__init__(message)
        self.error_code, self.error_text = error_code, error_text


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is none of `known`, with the nearest one named.

    >>> str(unknown("policy", "kubevirt-1.88", ["kubevirt-1.8", "kubevirt-1.9"]))
    "unknown policy 'kubevirt-1.88': did you mean 'kubevirt-1.8'?"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(names)
    return UsageError(f"unknown {kind} {name!r}: {hint}")

"""Policies as they are written on the command line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from migkit.errors import UsageError

if TYPE_CHECKING:
    from migkit.policies import Policy


def parse_options(texts: Iterable[str]) -> dict[str, str]:
    """NAME=VALUE texts as a dictionary. Raises UsageError for a text without `=`."""
    options = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name or not value:
            raise UsageError(f"{text!r}: write an option as NAME=VALUE, e.g. progress_timeout=30")
        options[name.strip()] = value.strip()
    return options


def parse_policy(text: str, options: Iterable[str] = ()) -> tuple[str, Policy]:
    """`[LABEL=]NAME[,OPTION=VALUE...]` as a label and a policy; `options` are added to its own.

    >>> parse_policy("tight=kubevirt-1.8,progress_timeout=5")[0]
    'tight'
    """
    from migkit.policies import policy

    head, *own = text.split(",")
    label, sign, name = head.partition("=")
    if not sign:
        label, name = "", head
    given: dict[str, Any] = dict(parse_options([*own, *options]))
    made = policy(name.strip(), **given)
    return label.strip() or made.name, made

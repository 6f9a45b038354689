"""Policies as they are given on the command line: by name and option, or by KubeVirt's own configuration."""

from __future__ import annotations

import argparse
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

    label, name, own = _parts(text)
    given: dict[str, Any] = dict(parse_options([*own, *options]))
    made = policy(name, **given)
    return label or made.name, made


def _parts(text: str) -> tuple[str, str, list[str]]:
    head, *own = text.split(",")
    label, sign, name = head.partition("=")
    return (label.strip(), name.strip(), own) if sign else ("", head.strip(), own)


def chosen_policies(arguments: argparse.Namespace) -> dict[str, Policy]:
    """The policies of --policy, --config and --set, by label. Raises UsageError where two have one label."""
    if arguments.config:
        return _configured(arguments)
    found = [parse_policy(text, arguments.set) for text in arguments.policy]
    labelled = dict(found)
    if len(labelled) < len(found):
        raise UsageError("two of the policies have the same name; label them, e.g. --policy tight=kubevirt-1.8,...")
    return labelled


def _configured(arguments: argparse.Namespace) -> dict[str, Policy]:
    """The policy that the configuration makes, changed by --set; further --policy stand beside it."""
    from migkit.policies import kubevirt

    configuration = configured(arguments)
    given = {name: configuration.policy.options[name] for name in configuration.policy.given}
    changes: dict[str, Any] = dict(parse_options(arguments.set))
    made = kubevirt(configuration.policy.version, **given | changes) if changes else configuration.policy
    return {"configured": made, **dict(parse_policy(text, arguments.set) for text in arguments.policy[1:])}


def configured(arguments: argparse.Namespace) -> Any:
    """The configuration read from --config, for the version that the first --policy names, if any."""
    from migkit.manifest import read_configuration
    from migkit.policies import policy

    version = None
    if arguments.policy:
        _, name, own = _parts(arguments.policy[0])
        if own:
            raise UsageError("with --config the first --policy only names the version; set options with --set")
        version = policy(name).version
    return read_configuration(arguments.config, version)

"""Policies as they are given on the command line: by name and option, or by KubeVirt's own configuration."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from migkit.errors import UsageError

if TYPE_CHECKING:
    from migkit.manifest import Configuration
    from migkit.policies import Policy

T = TypeVar("T")


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
        return {label: found.policy for label, found in configured(arguments).items()}
    return _labelled([parse_policy(text, _settings(arguments)) for text in arguments.policy])


def configured(arguments: argparse.Namespace) -> dict[str, Configuration]:
    """What --config makes of each --policy, by label: its file's options, over them what the policy's own name and
    options say, over all --set. Without --policy the version is the configuration's."""
    return _labelled([_configured(arguments, text) for text in arguments.policy or [""]])


def _configured(arguments: argparse.Namespace, text: str) -> tuple[str, Configuration]:
    from migkit.manifest import changed, defaults, read_configuration
    from migkit.policies import policy

    label, name, own = _parts(text)
    named = policy(name) if name else None
    features = dict.fromkeys(named.given, True) if named else {}
    layers: list[tuple[Mapping[str, Any], str]] = [
        (features, f"--policy {name}"),
        (parse_options(own), f"--policy {text}"),
        (parse_options(_settings(arguments)), "--set"),
    ]
    version = named.version if named else None
    found = changed(read_configuration(arguments.config, version) if arguments.config else defaults(version), *layers)
    return label or found.policy.name, found


def size_bytes(text: str, where: str) -> int:
    """A size in bytes, a quantity of 0 or more. Raises UsageError that names where it was given."""
    from migkit.policies.size import parse_quantity, rounded_up

    try:
        size = parse_quantity(text)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    if not 0 <= size < 2**63:
        raise UsageError(f"{where}: {text} is no size of a file: it must be 0 or more, and below 8Ei")
    return int(rounded_up(size))


def ephemeral_bytes(arguments: argparse.Namespace, found: Configuration) -> int:
    """What --ephemeral says. Raises UsageError where there is no VMI whose deadline it would count into."""
    size = size_bytes(arguments.ephemeral, "--ephemeral")
    if size and found.vmi is None:
        raise UsageError("--ephemeral counts into the deadline of a VMI: give its manifest, too")
    return size


def one_configuration(arguments: argparse.Namespace, verb: str) -> Configuration:
    """The policy of a verb that runs one, and the options of the migration. Raises UsageError unless it is one."""
    if len(arguments.policy) > 1 or not (arguments.policy or arguments.config):
        raise UsageError(f"{verb} runs one policy: give --policy, e.g. --policy kubevirt-1.9, or --config FILE")
    return next(iter(configured(arguments).values()))


def has_vfio(arguments: argparse.Namespace) -> bool | None:
    """What --set has_vfio=... says about the guest; None where nobody says."""
    from migkit.policies.versions import read_flag

    said = parse_options(text for text in arguments.set if text.startswith(_VFIO))
    return read_flag("has_vfio", said["has_vfio"]) if said else None


def _settings(arguments: argparse.Namespace) -> list[str]:
    """--set without what it says about the guest."""
    return [text for text in arguments.set if not text.startswith(_VFIO)]


_VFIO = "has_vfio="


def _labelled(found: list[tuple[str, T]]) -> dict[str, T]:
    labelled = dict(found)
    if len(labelled) < len(found):
        raise UsageError("two of the policies have the same name; label them, e.g. --policy tight=kubevirt-1.8,...")
    return labelled


def origins_told(arguments: argparse.Namespace) -> str:
    """The effective options of each configured policy, each with where it came from; empty without --config."""
    if not arguments.config:
        return ""
    return "".join(told_origins(found, label) + "\n\n" for label, found in configured(arguments).items())


def told_origins(found: Configuration, label: str = "") -> str:
    """The effective options of a configured policy, each with where it came from."""
    return _told(label or found.policy.name, found)


def _told(label: str, found: Configuration) -> str:
    policy = found.policy
    rows = [
        (name, str(value).lower() if isinstance(value, bool) else str(value), found.origins[name])
        for name, value in policy.options.items()
    ]
    wide, high = max(len(r[0]) for r in rows), max(len(r[1]) for r in rows)
    lines = [f"  {name:<{wide}}  {value:>{high}}  {origin}" for name, value, origin in rows]
    named = "" if label == policy.name else f"{label}: "
    return "\n".join([f"{named}options of {policy.name} (version {found.version_from})", *lines])

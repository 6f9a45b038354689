"""VirtualMachineInstance and VirtualMachineInstanceMigration objects: what a log leaves out about a migration.

Fields: kubevirt/kubevirt staging/src/kubevirt.io/api/core/v1/types.go, v0.59.0 to main at d923fdb815.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from migkit.errors import MigkitError, UsageError
from migkit.meta import Domain, End
from migkit.policies.size import parse_quantity, rounded_up
from migkit.units import NS_PER_S

_KINDS = ("VirtualMachineInstance", "VirtualMachineInstanceMigration")
_SUFFIXES = (".yaml", ".yml", ".json")
# Of a MiB each: no object is as large.
_MOST_BLOCKS = 16

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the objects say of one migration; unknown is None or empty. `notes` go into the trace as they are."""

    uuid: str = ""
    memory_bytes: int | None = None
    vcpus: int | None = None
    has_vfio: bool | None = None
    started_wall_ns: int | None = None
    ended_wall_ns: int | None = None
    end: End = field(default_factory=End)
    notes: dict[str, Any] = field(default_factory=dict)

    def domain(self, namespace: str, name: str) -> Domain:
        """The guest of that name, under which libvirt knows it."""
        return Domain(
            name=f"{namespace}_{name}" if namespace else name,
            uuid=self.uuid, memory_bytes=self.memory_bytes, vcpus=self.vcpus, has_vfio=self.has_vfio,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifests:
    """The objects at hand, given or found."""

    objects: list[Object] = field(default_factory=list)

    @classmethod
    def read(cls, paths: Sequence[str | os.PathLike[str]]) -> Manifests:
        """Raises MigkitError for a file that cannot be read, is not YAML or JSON, or holds no such object."""
        found: list[Object] = []
        for path in map(Path, paths):
            try:
                text = path.read_bytes()
            except OSError as error:
                raise MigkitError(f"{path}: cannot be read ({error.strerror})") from None
            try:
                objects = list(_objects(text))
            except ValueError as error:
                raise MigkitError(f"{path}: is neither YAML nor JSON ({error})") from None
            if not objects:
                raise MigkitError(f"{path}: holds no {' or '.join(_KINDS)}")
            found += objects
        return cls(objects=found)

    def add_found(self, place: str, blocks: Iterator[bytes]) -> None:
        """Adds the objects that a file holds, if its name is one of such a file; what is none is passed over."""
        if not place.removesuffix(".gz").endswith(_SUFFIXES):
            return
        text = b"".join(itertools.islice(blocks, _MOST_BLOCKS))
        if any(kind.encode() in text for kind in _KINDS):
            with contextlib.suppress(ValueError):
                self.objects.extend(_objects(text))

    def facts(self, migration: str, uid: str, namespace: str, name: str) -> Facts:
        """What is known of a migration by its UID and its guest's UID, or namespace and name."""
        vmi = next((o for o in self._of("VirtualMachineInstance") if _is(o, uid, namespace, name)), {})
        vmim = next((o for o in self._of("VirtualMachineInstanceMigration") if migration and
                     _at(o, "metadata").get("uid") == migration), {})  # fmt: skip
        states = [_at(vmim, "status", "migrationState"), _at(vmi, "status", "migrationState")]
        state = next((s for s in states if s and migration and s.get("migrationUid") == migration), {})
        return _facts(vmi, state)

    def _of(self, kind: str) -> list[Object]:
        return [one for one in self.objects if one.get("kind") == kind]


def _objects(text: bytes) -> Iterator[Object]:
    """The objects of our kinds in a YAML or JSON text, lists of them included. Raises ValueError."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        documents = [json.loads(text)] if text.lstrip()[:1] == b"{" else list(yaml.load_all(text, loader))
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        # A tag with a value that is none of its kind ends in whatever its constructor meets.
        raise ValueError(" ".join(str(error).split())) from None
    for document in documents:
        items = document.get("items") if isinstance(document, dict) else None
        for item in items if isinstance(items, list) else [document]:
            if isinstance(item, dict) and item.get("kind") in _KINDS:
                yield item


def _at(body: Object, *names: str) -> Object:
    """The object at a path; empty where there is none."""
    for name in names:
        inner = body.get(name)
        body = inner if isinstance(inner, Mapping) else {}
    return body


def _is(vmi: Object, uid: str, namespace: str, name: str) -> bool:
    own = _at(vmi, "metadata")
    if uid and own.get("uid"):
        return bool(own["uid"] == uid)
    return bool(name) and (own.get("namespace", namespace), own.get("name")) == (namespace, name)


def _facts(vmi: Object, state: Object) -> Facts:
    domain = _at(vmi, "spec", "domain")
    kept = ("migrationConfiguration", "migrationPolicyName", "mode", "sourceNode", "targetNode")
    return Facts(
        uuid=_text(_at(domain, "firmware").get("uuid")),
        memory_bytes=_memory_bytes(domain),
        vcpus=_vcpus(_at(domain, "cpu")),
        has_vfio=_has_vfio(domain) if domain else None,
        started_wall_ns=_wall_ns(state.get("startTimestamp")),
        ended_wall_ns=_wall_ns(state.get("endTimestamp")),
        end=_end(state),
        notes={"kubevirt_status": status} if (status := {k: _plain(state[k]) for k in kept if k in state}) else {},
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _plain(value: Any) -> Any:
    """YAML knows times and more, and what holds itself; JSON does not."""
    try:
        return json.loads(json.dumps(value, default=str))
    except (ValueError, TypeError, RecursionError):
        return None


def _memory_bytes(domain: Object) -> int | None:
    """The guest's memory as KubeVirt counts it for its deadline: as set, else as requested."""
    asked = _at(domain, "memory").get("guest") or _at(domain, "resources", "requests").get("memory")
    if asked is None:
        return None
    try:
        size = int(rounded_up(parse_quantity(asked)))
    except (UsageError, ArithmeticError):
        return None
    return size if 0 < size < 2**62 else None


def _vcpus(cpu: Object) -> int | None:
    parts = [cpu.get(name, 1) for name in ("cores", "sockets", "threads")]
    if not cpu or not all(isinstance(part, int) for part in parts):
        return None
    return int(parts[0] * parts[1] * parts[2])


def _has_vfio(domain: Object) -> bool:
    """Host devices, GPUs, or an interface with SR-IOV."""
    devices = _at(domain, "devices")
    interfaces = devices.get("interfaces")
    listed = interfaces if isinstance(interfaces, list) else []
    sriov = any(isinstance(one, Mapping) and "sriov" in one for one in listed)
    return bool(devices.get("hostDevices") or devices.get("gpus") or sriov)


def _wall_ns(value: object) -> int | None:
    if isinstance(value, str):
        try:
            value = datetime.datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime.datetime):
        return None
    aware = value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
    return int(aware.timestamp()) * NS_PER_S


def _end(state: Object) -> End:
    if state.get("failed"):
        text = _text(state.get("failureReason"))
        cancelled = state.get("abortStatus") == "Succeeded" or "has been aborted" in text
        return End(outcome="cancelled" if cancelled else "failed", evidence="status of the object", error_text=text)
    if state.get("completed"):
        return End(outcome="completed", evidence="status of the object")
    return End()

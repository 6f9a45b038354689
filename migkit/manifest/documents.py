"""Kubernetes objects out of YAML or JSON files: those that hold settings of KubeVirt's migrations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migkit.errors import MigkitError

# Where each kind has its migration settings.
PLACES = {
    "KubeVirt": ("spec", "configuration", "migrations"),
    "HyperConverged": ("spec", "liveMigrationConfig"),
    "MigrationPolicy": ("spec",),
    "VirtualMachineInstance": ("status", "migrationState", "migrationConfiguration"),
}
# Later kinds lie over earlier ones: a policy over its cluster, what a VMI was really migrated with over both.
ORDER = ("HyperConverged", "KubeVirt", "MigrationPolicy", "VirtualMachineInstance")


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One object. `where` names its file and itself in errors."""

    kind: str
    body: Mapping[str, Any]
    where: str

    @property
    def path(self) -> str:
        """Of the migration settings inside the document."""
        return ".".join(PLACES[self.kind])

    @property
    def settings(self) -> Mapping[str, Any]:
        """The migration settings, empty when there are none."""
        return self.object_at(*PLACES[self.kind])

    def object_at(self, *names: str) -> Mapping[str, Any]:
        """The object at a path, empty where there is none. Raises MigkitError for anything else there."""
        found = self.body
        for depth, name in enumerate(names, 1):
            inner: Any = found.get(name)
            if inner is None:
                return {}
            if not isinstance(inner, Mapping) or not all(isinstance(key, str) for key in inner):
                raise MigkitError(f"{self.where}: {'.'.join(names[:depth])} is not an object with named fields")
            found = inner
        return found


def documents(path: Path) -> Iterator[Document]:
    """The objects of a file, lists opened. Raises MigkitError that names the file."""
    try:
        import yaml

        with open(path) as stream:
            bodies = list(yaml.safe_load_all(stream))
    except FileNotFoundError:
        raise MigkitError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise MigkitError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise MigkitError(f"{path}: is not YAML ({' '.join(str(error).split())})") from None
    for body in bodies:
        items = body.get("items", [body]) if isinstance(body, Mapping) else [body]
        for item in items if isinstance(items, list) else [items]:
            if item is not None:
                yield _document(path, item)


def _document(path: Path, body: Any) -> Document:
    if not isinstance(body, Mapping) or not isinstance(body.get("kind"), str):
        raise MigkitError(f"{path}: holds no Kubernetes object (an object with a kind)")
    kind = body["kind"]
    if kind not in PLACES:
        raise MigkitError(f"{path}: kind {kind} is none of {', '.join(PLACES)}")
    name = Document(kind=kind, body=body, where=f"{path}: {kind}").object_at("metadata").get("name", "")
    return Document(kind=kind, body=body, where=f"{path}: {kind}{f' {name}' if name else ''}")

"""KubeVirt's configuration in YAML: read into options, and options written for it."""

from __future__ import annotations

from migkit.manifest.read import NEWEST, Configuration, changed, defaults, read_configuration
from migkit.manifest.write import KINDS, manifest

__all__ = ["KINDS", "NEWEST", "Configuration", "changed", "defaults", "manifest", "read_configuration"]

"""KubeVirt's configuration in and out."""

from __future__ import annotations

from migkit.manifest.read import NEWEST, Configuration, read_configuration
from migkit.manifest.write import KINDS, manifest

__all__ = ["KINDS", "NEWEST", "Configuration", "manifest", "read_configuration"]

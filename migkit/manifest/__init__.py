"""KubeVirt's configuration in YAML: read into options."""

from migkit.manifest.read import NEWEST, Configuration, changed, defaults, read_configuration

__all__ = ["NEWEST", "Configuration", "changed", "defaults", "read_configuration"]

"""What is asked of libvirt for a migration: flags, parameters, which disks. Pure; libvirt itself is not needed."""

from migkit.migration.plan import Plan, plan
from migkit.migration.request import (
    FLAGS,
    PARAMETERS,
    MigrationOptions,
    Request,
    bandwidth_mibps,
    flags_value,
    parallel_connections,
    request,
)
from migkit.migration.rewrite import rewritten
from migkit.migration.vmi import Vmi, read_vmi
from migkit.migration.volumes import classify, copy_list

__all__ = [
    "FLAGS",
    "PARAMETERS",
    "MigrationOptions",
    "Plan",
    "Request",
    "Vmi",
    "bandwidth_mibps",
    "classify",
    "copy_list",
    "flags_value",
    "parallel_connections",
    "plan",
    "read_vmi",
    "request",
    "rewritten",
]

"""What is asked of libvirt for a migration: flags, parameters, which disks. Pure; libvirt itself is not needed."""

from migkit.migration.request import (
    FLAGS,
    PARAMETERS,
    THREADS_ANNOTATION,
    MigrationOptions,
    Request,
    bandwidth_mibps,
    flags_value,
    parallel_connections,
    request,
)

__all__ = [
    "FLAGS",
    "PARAMETERS",
    "THREADS_ANNOTATION",
    "MigrationOptions",
    "Request",
    "bandwidth_mibps",
    "flags_value",
    "parallel_connections",
    "request",
]

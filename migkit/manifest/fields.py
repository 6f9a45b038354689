"""The names of fields in KubeVirt's objects, and the options that they are to migkit."""

from __future__ import annotations

from migkit.migration.request import THREADS_ANNOTATION

MONITOR = {
    "progressTimeout": "progress_timeout",
    "completionTimeoutPerGiB": "completion_timeout_per_gib",
    "allowPostCopy": "allow_post_copy",
    "allowWorkloadDisruption": "allow_workload_disruption",
    "maxDowntimeMs": "max_downtime_ms",
}
# What is said to libvirt itself, beside the monitor.
MIGRATION = {
    "allowAutoConverge": "allow_auto_converge",
    "bandwidthPerMigration": "bandwidth_per_migration",
    "unsafeMigrationOverride": "unsafe_migration_override",
    "compression": "compression",
}
CLUSTER_ONLY = ("progressTimeout", "unsafeMigrationOverride")
# What MigrationOptions takes from the VMI itself.
OF_THE_VMI = {
    "parallel_threads": f"metadata.annotations[{THREADS_ANNOTATION}]",
    "cpu_limit": "spec.domain.resources.limits.cpu",
    "dedicated_cpus": "spec.domain.cpu.dedicatedCpuPlacement",
}
STALL = {
    "stallMargin": "stall_margin",
    "stallProgressTimeout": "stall_progress_timeout",
    "switchoverTimeout": "switchover_timeout",
    "ewmaAlpha": "ewma_alpha",
    "precopyPossibleFactor": "precopy_possible_factor",
    "patienceWindowDecayFactor": "patience_window_decay_factor",
    "searchLocalMinima": "search_local_minima",
    "completionTimeoutFactor": "completion_timeout_factor",
}
TUNING = {
    "initialMs": "initial_ms",
    "steps": "steps",
    "startAfterIteration": "start_after_iteration",
    "cooldownSeconds": "cooldown_seconds",
}
# Fields beside them that say nothing about one migration.
OTHER = (
    "disableTLS", "matchSELinuxLevelOnMigration", "network", "nodeDrainTaintKey", "parallelMigrationsPerCluster",
    "parallelOutboundMigrationsPerNode", "utilityVolumesTimeout",
)  # fmt: skip
SELECTION = ("selectors",)
# Kinds with a block of experimental options: a policy, and what a VMI was really migrated with.
EXPERIMENTAL = ("MigrationPolicy", "VirtualMachineInstance")
# Which feature gate an experimental block needs.
GATES = {"stallDetector": "MigrationStallDetection", "downtimeTuning": "MigrationDowntimeTuning"}

"""migkit: record live migrations, replay KubeVirt's migration rules over them, tune the thresholds.

    import migkit as mk
    trace = mk.load("data/traces/stall_link.parquet")
    run = mk.replay(trace, mk.kubevirt("1.8", progress_timeout=10))
    mk.plot.convergence(trace)

Names are fetched when first used, so that `import migkit` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from migkit.errors import MigkitError, UsageError

__version__ = "0.1.0"

_HOMES = {
    "Trace": "migkit.trace",
    "load": "migkit.trace",
    "open_dataset": "migkit.dataset",
    "kubevirt": "migkit.policies",
    "policy": "migkit.policies",
    "compare": "migkit.comparison",
    "read_configuration": "migkit.manifest",
    "Replay": "migkit.drivers.replay",
    "replay": "migkit.drivers.replay",
    "live": "migkit.drivers.live",
    "migrate": "migkit.drivers.migrate",
    "record": "migkit.capture.recorder",
    "recover": "migkit.capture.journal",
    "sample": "migkit.samples",
    "sample_names": "migkit.samples",
}
_MODULES = ("failures", "migration", "plot", "report", "schema", "stats", "units")

__all__ = [
    "MigkitError",
    "Replay",
    "Trace",
    "UsageError",
    "__version__",
    "compare",
    "failures",
    "kubevirt",
    "live",
    "load",
    "migrate",
    "migration",
    "open_dataset",
    "plot",
    "policy",
    "read_configuration",
    "record",
    "recover",
    "replay",
    "report",
    "sample",
    "sample_names",
    "schema",
    "stats",
    "units",
]

if TYPE_CHECKING:
    from migkit import failures, migration, plot, report, schema, stats, units
    from migkit.capture.journal import recover
    from migkit.capture.recorder import record
    from migkit.comparison import compare
    from migkit.dataset import open_dataset
    from migkit.drivers.live import live
    from migkit.drivers.migrate import migrate
    from migkit.drivers.replay import Replay, replay
    from migkit.manifest import read_configuration
    from migkit.policies import kubevirt, policy
    from migkit.samples import sample, sample_names
    from migkit.trace import Trace, load


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"migkit.{name}")
    raise AttributeError(f"module 'migkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

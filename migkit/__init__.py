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
    "Dataset": "migkit.dataset",
    "Answer": "migkit.fidelity",
    "answers": "migkit.fidelity",
    "Trace": "migkit.trace",
    "load": "migkit.trace",
    "open_dataset": "migkit.dataset",
    "kubevirt": "migkit.policies",
    "policy": "migkit.policies",
    "compare": "migkit.comparison",
    "explain": "migkit.explanation",
    "read_configuration": "migkit.manifest",
    "Replay": "migkit.drivers.replay",
    "replay": "migkit.drivers.replay",
    "live": "migkit.drivers.live",
    "record": "migkit.capture.recorder",
    "recover": "migkit.capture.journal",
    "Sweep": "migkit.drivers.sweep",
    "Tuned": "migkit.tuning",
    "import_logs": "migkit.capture.logs.formats",
    "read_log": "migkit.capture.logs.formats",
    "sample": "migkit.samples",
    "sample_names": "migkit.samples",
    "sweep": "migkit.drivers.sweep",
    "tune": "migkit.tuning",
}
_MODULES = ("downtime", "failures", "migration", "plot", "report", "schema", "stats", "units")

__all__ = [
    "Answer",
    "Dataset",
    "MigkitError",
    "Replay",
    "Sweep",
    "Trace",
    "Tuned",
    "UsageError",
    "__version__",
    "answers",
    "compare",
    "downtime",
    "explain",
    "failures",
    "import_logs",
    "kubevirt",
    "live",
    "load",
    "migration",
    "open_dataset",
    "plot",
    "policy",
    "read_configuration",
    "read_log",
    "record",
    "recover",
    "replay",
    "report",
    "sample",
    "sample_names",
    "schema",
    "stats",
    "sweep",
    "tune",
    "units",
]

if TYPE_CHECKING:
    from migkit import downtime, failures, migration, plot, report, schema, stats, units
    from migkit.capture.journal import recover
    from migkit.capture.logs.formats import import_logs, read_log
    from migkit.capture.recorder import record
    from migkit.comparison import compare
    from migkit.dataset import Dataset, open_dataset
    from migkit.drivers.live import live
    from migkit.drivers.replay import Replay, replay
    from migkit.drivers.sweep import Sweep, sweep
    from migkit.explanation import explain
    from migkit.fidelity import Answer, answers
    from migkit.manifest import read_configuration
    from migkit.policies import kubevirt, policy
    from migkit.samples import sample, sample_names
    from migkit.trace import Trace, load
    from migkit.tuning import Tuned, tune


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"migkit.{name}")
    raise AttributeError(f"module 'migkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

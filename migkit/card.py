"""The data card of a set of traces, in Markdown: what each is, from its own metadata."""

from __future__ import annotations

from collections.abc import Sequence

from migkit import stats
from migkit.trace import Trace
from migkit.units import format_bytes, format_ms, format_s

_HEAD = """# Traces

Each file is one live migration, in Parquet, with everything that is known about it in its own metadata
(`migkit info --json`). The columns are explained in [GLOSSARY.md](GLOSSARY.md). This page is made from the metadata:
`migkit info data/traces --card > data/README.md`.

| trace | what happened | guest | limit | outcome | duration | downtime reported / by heartbeat | samples |
|---|---|---|---|---|---|---|---|
"""


def data_card(traces: Sequence[Trace]) -> str:
    """The page: a row a trace, then where they come from and what they cannot tell."""
    table = stats.summary(traces)
    rows = "".join(_row(trace, table.loc[trace.name]) for trace in traces)
    return _HEAD + rows + _origins(traces) + _LIMITS


def _row(trace: Trace, numbers: object) -> str:
    get = getattr(numbers, "get")  # noqa: B009 (a row of a table: its labels are data)
    lab, meta = trace.meta.lab, trace.meta
    limit = meta.migration.parameters.get("bandwidth")
    memory = "" if meta.domain.memory_bytes is None else format_bytes(meta.domain.memory_bytes)
    said = [
        format_ms(v) if v is not None and v == v else "-" for v in (get("downtime_ms"), get("heartbeat_downtime_ms"))
    ]
    cells = (
        f"`{trace.name}`",
        (lab.description if lab else "").replace("|", "/"),
        memory,
        f"{limit} MiB/s" if limit else "none",
        meta.end.outcome,
        format_s(float(get("duration_s"))),
        " / ".join(said),
        f"{get('samples')} at {meta.cadence.interval_ms:g} ms" if meta.cadence.interval_ms else str(get("samples")),
    )
    return "| " + " | ".join(cells) + " |\n"


def _origins(traces: Sequence[Trace]) -> str:
    found: dict[tuple[str, ...], int] = {}
    for trace in traces:
        host = trace.meta.host
        key = (trace.meta.provenance, trace.meta.origin or trace.meta.cadence.recorder, host.libvirt_version,
               host.qemu_version, host.accelerator)  # fmt: skip
        found[key] = found.get(key, 0) + 1
    lines = [
        f"- {count} {provenance}: {origin or 'origin unknown'}; libvirt {libvirt or '?'}, QEMU {qemu or '?'}, "
        f"{accelerator or 'accelerator unknown'}"
        for (provenance, origin, libvirt, qemu, accelerator), count in sorted(found.items())
    ]
    damaged = [trace.name for trace in traces if trace.meta.lab and trace.meta.lab.guest_corrupted]
    warning = f"- the guest's memory check failed in: {', '.join(damaged)}\n" if damaged else ""
    return "\n## Where they come from\n\n" + "\n".join(lines) + "\n" + warning


_LIMITS = """
## What they cannot tell

Small guests of a lab, two hosts on one machine, links limited by hand, emulated processors where the accelerator is
tcg: levels and causes are real, absolute times of a large production guest are not. `provenance` says what a trace is:
*recorded* by migkit's recorder, *imported* from what another tool wrote of a real migration, *simulated* by a model.

Licence of the traces: [CC-BY-4.0](https://creativecommons.org/licenses/by/4.0/).
"""

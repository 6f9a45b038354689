"""The data card of a set of traces, in Markdown: what each is, from its own metadata; and whether one may join it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migkit import stats
from migkit.errors import MigkitError
from migkit.trace import Trace
from migkit.units import format_bytes, format_ms, format_s

_HEAD = """# Traces

Each file is one live migration, in Parquet, with everything that is known about it in its own metadata
(`migkit info --json`). The columns are explained in [GLOSSARY.md](GLOSSARY.md), and which of three downtimes to believe
in [DOWNTIME.md](DOWNTIME.md). This page is made from the metadata: `migkit info data/traces --card > data/README.md`.

Bandwidth is the limit given to libvirt. *Truth* is what the lab knows of its scenario and no rule may see: what holds
the migration up; whether it would end by itself if nobody acted; from when to when a fault lasts, in seconds after the
migration was asked for. The field `lab.truth` of the metadata has it as limited_by, converges, fault_from_s and
fault_until_s.

| trace | what happened | truth | guest | bandwidth | outcome | duration | downtime reported / by heartbeat | samples |
|---|---|---|---|---|---|---|---|---|
"""


def data_card(traces: Sequence[Trace]) -> str:
    """The page: a row a trace, then where they come from, what they cannot tell, how to cite and to add to them."""
    table = stats.summary(traces)
    rows = "".join(_row(trace, table.loc[trace.name]) for trace in traces)
    return _HEAD + rows + _labels(traces) + _origins(traces) + _LIMITS


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
        _truth(lab.truth) if lab else "",
        memory,
        f"{limit} MiB/s" if limit else "none",
        meta.end.outcome,
        format_s(float(get("duration_s"))),
        " / ".join(said),
        f"{get('samples')} at {meta.cadence.interval_ms:g} ms" if meta.cadence.interval_ms else str(get("samples")),
    )
    return "| " + " | ".join(cells) + " |\n"


def _truth(truth: dict[str, Any]) -> str:
    """The label in a few words; empty when there is none."""
    if "limited_by" not in truth:
        return ""
    words = f"{truth['limited_by']}, {'converges' if truth.get('converges') else 'does not converge'}"
    begins, ends = truth.get("fault_from_s"), truth.get("fault_until_s")
    if begins is None:
        return words
    return f"{words}; fault from {begins:g} s" + (f" to {ends:g} s" if ends is not None else " on")


def _labels(traces: Sequence[Trace]) -> str:
    """How many traces each label has."""
    known = [trace.meta.lab.truth for trace in traces if trace.meta.lab and "limited_by" in trace.meta.lab.truth]
    if not known:
        return ""
    limits = sorted({str(truth["limited_by"]) for truth in known})
    lines = [_count(limit, [truth for truth in known if truth["limited_by"] == limit]) for limit in limits]
    head = "| held up by | traces | converge by themselves | with a fault |\n|---|---|---|---|\n"
    return "\n## Truth labels\n\n" + head + "".join(lines)


def _count(limit: str, truths: Sequence[dict[str, Any]]) -> str:
    converging = sum(bool(truth.get("converges")) for truth in truths)
    faults = sum("fault_from_s" in truth for truth in truths)
    return f"| {limit} | {len(truths)} | {converging} | {faults} |\n"


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
    return "\n## Where they come from\n\n" + "\n".join(lines) + "\n" + _recorded_with(traces) + warning


def _recorded_with(traces: Sequence[Trace]) -> str:
    """What the lab made, and how busy its machine was: its two hosts share the processors with whatever else runs."""
    made = [trace for trace in traces if trace.meta.lab and trace.meta.provenance == "recorded"]
    if not made:
        return ""
    counts = Counter(trace.meta.lab.scenario for trace in made if trace.meta.lab)
    memory = [trace.meta.domain.memory_bytes for trace in made if trace.meta.domain.memory_bytes]
    repeated = sum(count > 1 for count in counts.values())
    text = f"- {len(counts)} scenarios of the lab (`migkit lab list`), {repeated} of them more than once"
    text += f"; guests of {format_bytes(min(memory))} to {format_bytes(max(memory))}\n" if memory else "\n"
    loads = [float(trace.meta.notes["load_average_before"][0]) for trace in made
             if "load_average_before" in trace.meta.notes]  # fmt: skip
    processors = {trace.meta.notes["processors"] for trace in made if "processors" in trace.meta.notes}
    if not loads:
        return text
    machine = f"one machine of {', '.join(str(count) for count in sorted(processors))} processors"
    return text + (f"- two hosts on {machine}; its load average at the start, noted in {len(loads)} of {len(made)}: "
                   f"{min(loads):g} to {max(loads):g}\n")  # fmt: skip


_LIMITS = """
## What they cannot tell

Small guests of a lab, one virtual processor each; two hosts on one machine, which share its processors; links limited
by hand; emulated processors where the accelerator is tcg: levels and causes are real, absolute times of a large
production guest are not. Emulated guests dirty at most some tens of MiB a second, so the bandwidths are as small. Each
guest writes as one program does: no database, no garbage collector. A fault's times are those at which it was asked
for; TCP may take a quarter of a minute more to notice that a link is back. `provenance` says what a trace is:
*recorded* by migkit's recorder, *imported* from what another tool wrote of a real migration, *simulated* by a model.

## Licence, and how to cite

The traces are under [CC-BY-4.0](https://creativecommons.org/licenses/by/4.0/): use them for anything, say where they
are from. For example: *migkit traces: live migrations of QEMU guests recorded through libvirt, with known causes;
version (the commit); CC-BY-4.0.* Say which traces you used: their names stay.

## To add your own

1. `migkit record DOMAIN -c URI --mask-names -o NAME.parquet` while the guest migrates: names of guests, hosts and
   storage are left out from the start. In a lab of your own: `migkit lab record SCENARIO -o DIR`, or
   `migkit lab campaign -o DIR` for the whole set.
2. `migkit info --check NAME.parquet` says whether it is readable, has samples, tells where it is from and names nobody.
3. Put it into data/traces under a name that says what happened, run `make data`, and offer it under the licence above.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Whether a trace may be shared: what stands against it (nothing: it may), and in a few words what it is."""

    name: str
    problems: tuple[str, ...]
    facts: str = ""


def check(path: str | os.PathLike[str]) -> Check:
    """Looks at a trace as somebody who is given it would: readable, samples, provenance, and names in it."""
    try:
        return check_trace(Trace.load(path))
    except MigkitError as error:
        return Check(name=Path(path).name.removesuffix(".parquet"), problems=(str(error),))


def check_trace(trace: Trace) -> Check:
    """The same for a trace that was read already."""
    meta = trace.meta
    names = "names masked" if meta.cadence.names_masked else "the lab's own names" if meta.lab else "names as they are"
    facts = f"{meta.provenance}, {int(trace.active.sum())} samples, {meta.end.outcome}, {names}"
    if meta.lab and meta.lab.guest_corrupted:
        facts += ", marked: the guest's memory came up corrupted"
    return Check(name=trace.name, problems=tuple(_problems(trace)), facts=facts)


def _problems(trace: Trace) -> Iterator[str]:
    meta = trace.meta
    if not trace.active.any():
        yield "it has no sample of a running migration"
    if meta.provenance == "simulated":
        yield "it is simulated, not a migration that happened"
    if meta.provenance == "imported" and not meta.origin:
        yield "it does not say where it was imported from"
    if not meta.cadence.names_masked and meta.lab is None and (said := _named(trace)):
        yield f"it names its {said}: record with --mask-names"


def _named(trace: Trace) -> str:
    """What a trace that was not masked gives away."""
    meta = trace.meta
    given = {"guest": meta.domain.name or meta.domain.uuid, "host": meta.host.name, "way to the host": meta.cadence.via}
    given["storage"] = "".join(disk.source for disk in meta.domain.disks)
    return ", ".join(kind for kind, name in given.items() if name)

"""Many traces: a folder of files against the same traces packed.

    python -m benchmarks.datasets                       # 100, 1000 and 10 000 traces; some ten minutes
    python -m benchmarks.datasets --traces 100 1000

The traces are those of data/traces over and over, each time perturbed so that no two are alike (marked simulated), in
a temporary folder. Everything is warm. Times are medians of rounds in which both layouts take turns: what is compared
is from one run. CPU is that of this process, all threads.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

import migkit as mk
from migkit import parquet
from migkit.schema import BY_NAME

COLUMNS = ("mono_ns", "time_elapsed_ms", "data_remaining_bytes", "memory_iteration")
SCALED = ("counter", "gauge")
SOURCE = Path("data/traces")


class Cost(NamedTuple):
    wall_s: float
    cpu_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", metavar="DIR", help="where the traces are written for the time being")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as made:
        real = mk.open_dataset(SOURCE)
        rows = int(real.catalogue["rows"].sum())
        print(f"{len(real)} bundled traces, {rows} rows")
        print("  bytes a row          " + _sizes(SOURCE, real.pack(Path(made) / "packed"), rows))
        for size in sorted(arguments.traces):
            files = Path(made) / f"files-{size}"
            _write(files, size)
            packed = mk.open_dataset(files).pack(Path(made) / f"packed-{size}")
            for line in report(files, packed, size, arguments.rounds):
                print(line, flush=True)


def _write(folder: Path, count: int) -> None:
    """Perturbed copies of the bundled traces."""
    folder.mkdir()
    sources = [parquet.read(path) for path in sorted(SOURCE.glob("*.parquet"))]
    random = np.random.default_rng(count)
    for number in tqdm(range(count), unit="trace", desc=f"writing {count}", disable=None):
        table, meta = sources[number % len(sources)]
        told = dataclasses.replace(meta, provenance="simulated", origin="perturbed copy of a bundled trace")
        parquet.write(folder / f"t{number:05d}.parquet", perturbed(table, random), told)


def perturbed(table: pa.Table, random: np.random.Generator) -> pa.Table:
    """The same migration, a little larger or smaller and looked at a little earlier or later."""
    factor = random.uniform(0.8, 1.25)
    for place, name in enumerate(table.column_names):
        column, kind = table[name].combine_chunks(), BY_NAME[name]
        if name in ("mono_ns", "wall_ns") or (kind.kind in SCALED and kind.unit in ("bytes", "bytes/s", "us", "pages")):
            values = column.fill_null(0).to_numpy(zero_copy_only=False)
            if name in ("mono_ns", "wall_ns"):
                changed = np.sort(values + random.integers(0, 500_000, len(values)))
            else:
                changed = np.round(values * factor * random.uniform(0.9999, 1.0001, len(values))).astype(values.dtype)
            filled = pa.array(changed, mask=column.is_null().to_numpy(zero_copy_only=False), type=column.type)
            table = table.set_column(place, table.schema.field(place), filled)
    return table


def report(files: Path, packed: Path, count: int, rounds: int) -> Iterator[str]:
    """The figures for one number of traces."""
    rows = int(mk.open_dataset(packed).catalogue["rows"].sum())
    yield f"\n{count} traces, {rows} rows"
    yield "  bytes a row          " + _sizes(files, packed, rows)
    yield _line("catalogue open", *_alternating([lambda: _open(files), lambda: _open(packed)], rounds))
    folders = [mk.open_dataset(files), mk.open_dataset(packed)]
    name = folders[0].names[count // 2]
    yield _line("one trace by name", *_alternating([lambda: mk.open_dataset(files / f"{name}.parquet")[0],
                                                    lambda: folders[1][:][name]], rounds))  # fmt: skip
    scans = _alternating(
        [lambda: _scan(folders[0]), lambda: _scan(folders[1]), lambda: _decode(packed)], min(rounds, 3)
    )
    yield _line("4 columns of all", *scans[:2])
    over = (scans[1].cpu_s - scans[2].cpu_s) / count * 1000
    yield f"  a trace's own cost   {over:.3f} ms CPU beyond decoding ({scans[2].wall_s * 1000:.0f} ms for all files)"


def _sizes(files: Path, packed: Path, rows: int) -> str:
    one, many = (sum(path.stat().st_size for path in folder.iterdir()) for folder in (files, packed))
    return f"files {one / rows:.1f}, packed {many / rows:.1f}: {one / many:.2f}x"


def _line(what: str, files: Cost, packed: Cost) -> str:
    each = [f"{cost.wall_s * 1000:.1f} ms (CPU {cost.cpu_s * 1000:.1f})" for cost in (files, packed)]
    return f"  {what:<20} files {each[0]}, packed {each[1]}: {files.cpu_s / packed.cpu_s:.1f}x CPU"


def _alternating(actions: Sequence[Callable[[], object]], rounds: int) -> list[Cost]:
    """The median cost of each action over rounds in which they take turns; the first round only warms up."""
    found: list[list[Cost]] = [[] for _ in actions]
    for number in range(rounds + 1):
        for costs, action in zip(found, actions, strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            action()
            if number:
                costs.append(Cost(time.perf_counter() - wall, time.process_time() - cpu))
    return [Cost(*(statistics.median(part) for part in zip(*costs, strict=True))) for costs in found]


def _open(folder: Path) -> object:
    return mk.open_dataset(folder).catalogue


def _scan(traces: mk.Dataset) -> int:
    return sum(table.num_rows for share in traces.partitions() for _, table, _ in share.tables(COLUMNS))


def _decode(folder: Path) -> int:
    """The same columns by pyarrow alone."""
    paths = sorted(path for path in os.listdir(folder) if path.startswith("part-"))
    return sum(
        pq.ParquetFile(folder / path, page_checksum_verification=True).read(list(COLUMNS)).num_rows for path in paths
    )


if __name__ == "__main__":
    main()

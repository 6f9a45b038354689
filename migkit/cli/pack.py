"""`migkit pack`: many traces into a folder of few files that opens and reads fast."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from migkit.cli.traces import add_where, chosen_traces, print_left_out
from migkit.errors import MigkitError
from migkit.units import format_bytes

if TYPE_CHECKING:
    from migkit.dataset import Dataset


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb to the parser."""
    parser = verbs.add_parser(
        "pack", help="put many traces into few files", description=__doc__,
        epilog="What takes a folder of traces takes a packed one too. Nothing is lost; to get one trace back: "
        "mk.open_dataset(DIR)[NAME].save(FILE) in Python.",
    )  # fmt: skip
    parser.add_argument("traces", nargs="+", metavar="TRACE", help="a trace, a folder or URL of them")
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="the packed folder, to be made")
    parser.add_argument("--force", action="store_true", help="replace a packed folder that exists")
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out files that are no traces or damaged, and say which"
    )
    add_where(parser)
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Packs, and says what that came to; with --skip-bad also what was left out."""
    from tqdm.auto import tqdm

    _refuse_inside(arguments.traces, Path(arguments.output))
    traces = chosen_traces(arguments, skip_bad=arguments.skip_bad)
    if not len(traces):
        return 1
    with tqdm(total=len(traces), unit="trace", disable=None) as bar:
        folder = traces.pack(arguments.output, force=arguments.force, progress=lambda _: bar.update())
    print_left_out(traces)
    print(_told(arguments.output, folder) + (f"; {len(traces.bad)} left out" if traces.bad else ""))
    return 0


def _refuse_inside(places: list[str], output: Path) -> None:
    """A packed folder among its own traces would make each count twice."""
    for place in places:
        if os.path.isdir(place) and Path(place).resolve() in output.resolve().parents:
            raise MigkitError(f"{output}: lies in {place}, where each trace would be found twice; choose another place")


def _told(shown: str, folder: Path) -> str:
    from migkit.dataset import open_dataset

    packed: Dataset = open_dataset(folder)
    rows = int(packed.catalogue["rows"].sum())
    size = sum(path.stat().st_size for path in folder.iterdir())
    each = f", {size / rows:.1f} bytes a row" if rows else ""
    return f"{shown}: {len(packed)} traces, {rows} rows, {format_bytes(size)}{each}"

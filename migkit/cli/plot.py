"""`migkit plot`: pictures of traces."""

from __future__ import annotations

import argparse
from pathlib import Path

from migkit.errors import MigkitError


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb to the parser."""
    parser = verbs.add_parser("plot", help="draw traces", description=__doc__)
    parser.add_argument("traces", nargs="+", metavar="TRACE", help="a trace, or a folder of them")
    parser.add_argument(
        "--kind", choices=("convergence", "downtime", "overview"), default="convergence",
        help="convergence: a picture a trace; downtime, overview: one picture of them all (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("-o", "--output", metavar="DIR", default=".", help="folder of the pictures (default: here)")
    parser.add_argument("--force", action="store_true", help="overwrite pictures that exist")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Writes the pictures and prints their paths."""
    import matplotlib

    matplotlib.use("agg")
    from migkit import plot
    from migkit.dataset import open_dataset

    traces = open_dataset(*arguments.traces)
    folder = Path(arguments.output)
    if arguments.kind == "convergence":
        for trace in traces:
            save(plot.convergence(trace)[0], folder / f"{trace.name}.png", force=arguments.force)
    elif arguments.kind == "downtime":
        save(plot.downtime(traces), folder / "downtime.png", force=arguments.force)
    else:
        save(plot.overview(traces)[0], folder / "overview.png", force=arguments.force)
    return 0


def save(ax: object, path: Path, *, force: bool) -> None:
    """Saves the figure that `ax` belongs to, closes it and prints the path."""
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes

    assert isinstance(ax, Axes)
    figure = ax.get_figure(root=True)
    assert figure is not None
    try:
        if path.exists() and not force:
            raise MigkitError(f"{path}: exists already; choose another folder or pass --force")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise MigkitError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        plt.close(figure)
    print(path)

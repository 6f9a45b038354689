"""`migkit sweep`: many settings over many recorded migrations, a row a setting."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migkit.cli.policies import chosen_policies, origins_told
from migkit.errors import MigkitError, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from migkit.drivers.sweep import Executor, Sweep
    from migkit.policies import Policy

_SHOWN = {
    "acted": "acts on",
    "false_abort_ratio": "false aborts",
    "false_switchover_ratio": "false switchovers",
    "missed_ratio": "missed",
    "time_to_action_p50_s": "acts after",
    "regret_p50_ratio": "regret",
    "implied_downtime_p95_ms": "downtime p95",
    "wasted_p50_bytes": "wasted",
}


# What a share is a share of.
_AMONG = {"false_abort_ratio": "completed", "false_switchover_ratio": "completed", "missed_ratio": "never_converged"}


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb to the parser."""
    parser = verbs.add_parser("sweep", help="try many settings on recorded migrations", description=__doc__)
    add_options(parser)
    parser.add_argument("-o", "--output", metavar="FILE", type=Path,
                        help="write a row a trace and setting (.parquet or .csv)")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="overwrite a file that exists")
    parser.add_argument("--json", action="store_true", help="one JSON object a setting, a line each")
    parser.add_argument("--rows", metavar="N", type=int, default=40, help="show at most N settings (default: 40)")
    parser.set_defaults(handler=run)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What a sweep needs to know; `migkit tune` too."""
    parser.add_argument("traces", nargs="+", metavar="TRACE", help="a trace, a folder of them, or a packed one")
    parser.add_argument("--policy", action="append", default=[], metavar="NAME[,OPTION=VALUE...]",
                        help="whose settings are varied, e.g. kubevirt-1.9-stall")  # fmt: skip
    parser.add_argument("--config", action="append", default=[], metavar="FILE",
                        help="options from KubeVirt's own objects in YAML, as for replay")  # fmt: skip
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="an option that stays")
    parser.add_argument("--vary", action="append", default=[], metavar="OPTION=V,V,... or A:B:STEP",
                        help="values to try, e.g. stall_margin=2,4,8 or progress_timeout=10:60:10; repeatable "
                        "(default: a grid around the defaults)")  # fmt: skip
    parser.add_argument("--sample", metavar="N", type=int, help="try N combinations drawn at random")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of what is drawn at random (default: 0)")
    parser.add_argument("--where", metavar="FILTER", help='only such traces, e.g. "memory >= 4 GiB"')
    parser.add_argument("--data-size-gb", type=int, metavar="N",
                        help="the size behind the completion deadline (default: from each trace)")  # fmt: skip
    parser.add_argument("--inexact", action="store_true",
                        help="take along traces that cannot tell exactly, labelled bounded")  # fmt: skip
    parser.add_argument("--skip-bad", action="store_true", help="leave out what cannot be used, and count it")
    parser.add_argument("--yes", action="store_true", help="more than 10^8 replays are meant")
    parser.add_argument("--dask", metavar="ADDRESS", help="work on the Dask cluster whose scheduler is there")


def run(arguments: argparse.Namespace) -> int:
    """Prints the settings in their order."""
    if arguments.output:
        _check_output(arguments.output, force=arguments.force)
    if arguments.rows < 1:
        raise UsageError(f"--rows {arguments.rows}: must be at least 1")
    policy, lists = planned(arguments)
    with dask_executor(arguments.dask) as executor:
        found = swept(arguments, policy, lists, executor)
    from migkit.stats import by_setting

    table = by_setting(found)
    if arguments.output:
        write(found.table, arguments.output, force=arguments.force)
    if arguments.json:
        print(table.reset_index().to_json(orient="records", lines=True), end="")
        return _stopped(found)
    print(origins_told(arguments), end="")
    print(told(found))
    print(render_settings(table.head(arguments.rows), list(found.settings.columns)))
    if len(table) > arguments.rows:
        print(f"... {len(table) - arguments.rows} more settings: --rows shows them, -o writes them")
    return _stopped(found)


def _stopped(found: Sweep) -> int:
    """The exit code; a line where the sweep was interrupted."""
    if found.complete:
        return 0
    done, of = len(found.traces) + len(found.left_out), len(found.source)
    print(f"migkit: stopped after {done} of {of} traces; the figures are theirs", file=sys.stderr)
    return 128 + signal.SIGINT


def planned(arguments: argparse.Namespace) -> tuple[Policy, dict[str, Any]]:
    """The policy that the options name, and the values to try."""
    policy = _policy(arguments)
    return policy, parse_lists(arguments.vary) or _default_lists(policy)


def swept(
    arguments: argparse.Namespace, policy: Policy, lists: dict[str, Any], executor: Executor | None = None
) -> Sweep:
    """Runs the sweep that the options ask for."""
    from migkit.dataset import open_dataset
    from migkit.drivers.sweep import sweep

    source = open_dataset(*arguments.traces, skip_bad=arguments.skip_bad)
    source = source.where(arguments.where) if arguments.where else source
    return sweep(
        source, policy, sample=arguments.sample, seed=arguments.seed, data_size_gb=arguments.data_size_gb,
        inexact=arguments.inexact, skip_bad=arguments.skip_bad, large=arguments.yes,
        executor=executor, progress=True, **lists,
    )  # fmt: skip


def _policy(arguments: argparse.Namespace) -> Policy:
    policies = chosen_policies(arguments)
    if len(policies) != 1:
        raise UsageError("give one --policy whose settings are to be varied, e.g. --policy kubevirt-1.9-stall")
    return next(iter(policies.values()))


def _default_lists(policy: Policy) -> dict[str, Any]:
    from migkit.tuning.grids import default_lists

    return {name: values for name, values in default_lists(policy).items() if name not in policy.given}


def parse_lists(texts: Iterable[str]) -> dict[str, list[Any]]:
    """OPTION=V,V,... or OPTION=A:B:STEP (B included) into lists. Raises UsageError for anything else.

    >>> parse_lists(["stall_margin=2,4", "progress_timeout=10:30:10"])
    {'stall_margin': ['2', '4'], 'progress_timeout': [10, 20, 30]}
    """
    lists: dict[str, list[Any]] = {}
    for text in texts:
        name, sign, values = text.partition("=")
        if not sign or not name.strip() or not values.strip():
            raise UsageError(f"--vary {text}: write OPTION=V,V,... or OPTION=FROM:TO:STEP")
        if name.strip() in lists:
            raise UsageError(f"--vary {text}: {name.strip()} is varied twice")
        lists[name.strip()] = _span(text, values) if ":" in values else [v.strip() for v in values.split(",")]
    return lists


def _span(text: str, values: str) -> list[int]:
    try:
        first, last, *step = (int(part) for part in values.split(":"))
    except ValueError:
        raise UsageError(f"--vary {text}: FROM:TO:STEP are whole numbers") from None
    if len(step) > 1 or (step and step[0] < 1) or last < first:
        raise UsageError(f"--vary {text}: write FROM:TO:STEP, from the lesser to the greater")
    return list(range(first, last + 1, step[0] if step else 1))


@contextlib.contextmanager
def dask_executor(address: str | None) -> Iterator[Executor | None]:
    """A Dask cluster as an executor while the block runs. Raises MigkitError when it is not installed or does not
    answer."""
    if address is None:
        yield None
        return
    try:
        from dask.distributed import Client
    except ImportError:
        raise MigkitError("--dask needs Dask: pip install 'migkit[dask]'") from None
    connect: Any = Client
    try:
        client = connect(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise MigkitError(f"--dask {address}: no scheduler answers there ({error})") from None
    with client:
        yield client.get_executor(pure=False)


def told(found: Sweep) -> str:
    """What was swept, in a few lines: how the records ended, what was left out."""
    ends = found.traces["end"].value_counts()
    words = {"completed": "completed by themselves", "never converged": "never converged", "failed": "failed",
             "cut short": "cut short before one could tell"}  # fmt: skip
    counts = ", ".join(f"{ends[end]} {words[end]}" for end in words if end in ends)
    lines = [f"{len(found.traces)} traces x {len(found.settings)} settings of {found.policy}: {counts}"]
    if len(found.left_out):
        place, why = found.left_out.iloc[0]
        lines.append(f"left out: {len(found.left_out)}, the first: {place}: {str(why).removeprefix(f'{place}: ')}")
    return "\n".join(lines) + "\n"


def render_settings(table: pd.DataFrame, names: list[str], *, extra: dict[str, str] | None = None) -> str:
    """Settings with their main figures as aligned text."""
    from migkit.cli.table import render

    shown = table.reset_index()
    shown["acted"] = [f"{a} of {t}" for a, t in zip(shown["acted"], shown["traces"], strict=True)]
    for name, among in _AMONG.items():
        shown[name] = [
            None if not n else f"{round(v * n)} of {n}" for v, n in zip(shown[name], shown[among], strict=True)
        ]
    shown["regret_p50_ratio"] = [None if v != v else f"{v * 100:.3g} %" for v in shown["regret_p50_ratio"]]
    return render(shown, {**(extra or {}), **{name: name for name in names}, **_SHOWN})


def write(table: pd.DataFrame, path: Path, *, force: bool) -> None:
    """A table as Parquet or CSV. Raises MigkitError when it exists or cannot be written."""
    _check_output(path, force=force)
    try:
        table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path, index=False)
    except OSError as error:
        raise MigkitError(f"{path}: cannot be written ({error.strerror or error})") from None


def _check_output(path: Path, *, force: bool) -> None:
    """Before the work: raises for a name or place that cannot be written."""
    if path.suffix not in (".parquet", ".csv"):
        raise UsageError(f"{path}: name it .parquet or .csv")
    check_place(path, force=force)


def check_place(path: Path, *, force: bool) -> None:
    """Raises MigkitError for a file that exists, or whose folder does not."""
    if path.exists() and not force:
        raise MigkitError(f"{path}: exists already; choose another name or pass --force")
    if not path.absolute().parent.is_dir():
        raise MigkitError(f"{path}: its folder does not exist")

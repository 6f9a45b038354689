"""`migkit tune`: the setting to run, with its evidence and its price, as YAML that KubeVirt admits."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migkit.cli.policies import origins_told
from migkit.cli.sweep import add_options, check_place, dask_executor, planned, render_settings, swept, told
from migkit.errors import MigkitError, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from migkit.policies import Policy
    from migkit.tuning import Tuned


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb to the parser."""
    parser = verbs.add_parser("tune", help="recommend a setting from recorded migrations", description=__doc__)
    add_options(parser)
    parser.add_argument("--objective", metavar="TEXT",
                        help='e.g. "minimise time_to_action where implied_downtime_p95_ms <= 900" (default: fewest '
                        "missed, then lowest regret, then soonest, with no false abort)")  # fmt: skip
    parser.add_argument("--anyway", action="store_true", help="recommend although the traces do not suffice")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="write the recommendation as KubeVirt YAML")
    parser.add_argument("--kind", choices=("MigrationPolicy", "KubeVirt", "HyperConverged"), default=None,
                        help="of the YAML (default: MigrationPolicy, where that has the options)")  # fmt: skip
    parser.add_argument("--name", default="migkit-tuned", help="of the MigrationPolicy (default: migkit-tuned)")
    parser.add_argument(
        "--pictures", metavar="DIR", type=Path, help="draw Pareto front, heat map and sensitivity there"
    )
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Sweeps, chooses, shows the price, writes the YAML."""
    if arguments.seed < 0:
        raise UsageError(f"--seed {arguments.seed}: must be 0 or more")
    policy, lists = planned(arguments)
    _check_outputs(arguments, policy, lists)
    from migkit.tuning import parse, tune

    parse(arguments.objective)
    with dask_executor(arguments.dask) as executor:
        found = swept(arguments, policy, lists, executor)
        if not found.complete:
            raise KeyboardInterrupt
        print(origins_told(arguments), end="")
        print(told(found))
        best = tune(
            found, objective=arguments.objective, anyway=arguments.anyway, seed=arguments.seed, executor=executor
        )
    print(summary(best))
    text = best.manifest(kind=arguments.kind, name=arguments.name)
    if arguments.output:
        _write(arguments.output, text)
        print(f"\nYAML: {arguments.output}")
    else:
        print("\n" + text, end="")
    if arguments.pictures:
        _draw(best, arguments.pictures, force=arguments.force)
    return 0


def _check_outputs(arguments: argparse.Namespace, policy: Policy, lists: Mapping[str, Any]) -> None:
    """Before the work: raises for what could not be written after it."""
    from migkit.drivers.sweep.settings import expand
    from migkit.manifest import manifest

    (any_of_them, *_) = expand(policy, {name: list(values)[:1] for name, values in lists.items()}).policies
    manifest(any_of_them, kind=arguments.kind, name=arguments.name)
    if arguments.output:
        check_place(arguments.output, force=arguments.force)
    folder = arguments.pictures
    if folder and folder.exists() and not folder.is_dir():
        raise MigkitError(f"{folder}: is no folder")
    drawn = sorted(folder.glob("*.png")) if folder and not arguments.force else []
    if drawn:
        raise MigkitError(f"{drawn[0]}: exists already; choose another folder or pass --force")


def summary(best: Tuned) -> str:
    """What was chosen and why, what it costs, and how sure that is."""
    names = list(best.sweep.settings.columns)
    top = best.table.sort_values("rank").head(5)
    doubts = "".join(f"Beware: {why}.\n" for why in best.doubts)
    chosen = ", ".join(f"{name}={value}" for name, value in best.changed.items()) or "nothing was varied"
    return "\n".join([
        f"{doubts}Objective: {best.objective}",
        f"Recommended: {chosen}\n",
        "The best five of the sweep" if len(best.table) > 5 else "The settings in their order",
        render_settings(top, names),
        "\nBeside what else one could run (medians are those of the migrations on which a setting acts)",
        render_settings(best.baselines, [], extra={"label": "setting"}),
        "\n95 % bootstrap intervals of the objective's figures",
        _intervals(best),
        "\nWhich option matters: over its values, the others as recommended",
        _sensitivity(best),
        "\nHeld out: chosen on the other folds, judged on this one",
        _held_out(best),
    ])  # fmt: skip


def _intervals(best: Tuned) -> str:
    from migkit.cli.table import render
    from migkit.stats.settings import figure_text

    wide = best.intervals.assign(shown=[
        "-" if low != low else f"{figure_text(name, low)} to {figure_text(name, high)}"
        for name, low, high in best.intervals[["figure", "low", "high"]].itertuples(index=False)
    ]).pivot(index="label", columns="figure", values="shown")  # fmt: skip
    wide = wide.loc[best.baselines.index, list(best.objective.columns)].reset_index()
    return render(wide, {"label": "setting", **{name: name for name in best.objective.columns}})


def _sensitivity(best: Tuned) -> str:
    import pandas as pd

    from migkit.cli.table import render
    from migkit.stats.settings import figure_text

    if best.sensitivity.empty:
        return "no option was varied"
    rows = []
    for row in best.sensitivity.to_dict(orient="records"):
        shown = {"option": row["option"], "values": _values(best, str(row["option"])),
                 "changes": f"{row['changed_ratio'] * 100:.3g} % of traces"}  # fmt: skip
        for name in best.objective.columns:
            least, most = row[f"least_{name}"], row[f"most_{name}"]
            same = least == most or (least != least and most != most)
            shown[name] = (
                figure_text(name, least) if same else f"{figure_text(name, least)} to {figure_text(name, most)}"
            )
        rows.append(shown)
    table = pd.DataFrame(rows)
    return render(table, {"option": "option", "values": "values", "changes": "something else happens to",
                          **{name: name for name in best.objective.columns}})  # fmt: skip


def _values(best: Tuned, option: str) -> str:
    own = best.neighbours[best.neighbours["option"] == option]
    return " ".join(
        f"[{value}]" if chosen else str(value) for value, chosen in zip(own["value"], own["chosen"], strict=True)
    )


def _held_out(best: Tuned) -> str:
    from migkit.cli.table import render
    from migkit.stats.settings import figure_text

    if best.held_out.empty:
        return "too few groups for folds"
    table = best.held_out.copy()
    names = list(best.sweep.settings.columns)
    table["chosen"] = [_setting(best.sweep.settings.loc[number], names) for number in table["setting"]]
    for name in best.objective.columns:
        table[name] = [figure_text(name, value) for value in table[name]]
    table["admitted"] = ["yes" if held else "no" for held in table["admitted"]]
    columns = {"fold": "fold", "traces": "traces", "chosen": "chosen without it", "admitted": "conditions hold"}
    return render(table, columns | {name: name for name in best.objective.columns})


def _setting(row: pd.Series[Any], names: list[str]) -> str:
    return ", ".join(
        f"{name}={row[name]:g}" if isinstance(row[name], float) else f"{name}={row[name]}" for name in names
    )


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise MigkitError(f"{path}: cannot be written ({error.strerror or error})") from None


def _draw(best: Tuned, folder: Path, *, force: bool) -> None:
    import matplotlib

    matplotlib.use("agg")
    from migkit import plot
    from migkit.cli.plot import save

    for name, ax in plot.tuned(best).items():
        save(ax, folder / f"{name}.png", force=force)

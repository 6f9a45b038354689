"""A pytest plugin for regression tests on stored traces; pytest loads it wherever migkit is installed.

    pytest --migkit-traces DIR                    # or `migkit_traces = DIR` in the ini file
    pytest --migkit-traces DIR --migkit-update    # accept what the policies decide now

Fixtures: `migkit_trace` (one test a trace), `migkit_policy` (one a policy: `migkit_policies` in the ini file, a policy
a line as on migkit's command line), `migkit_replay` (both), and `migkit_golden`, which holds decisions against a small
text file beside the test:

    def test_decisions_stay_what_they_were(migkit_replay, migkit_golden):
        migkit_golden(migkit_replay)
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from migkit.dataset import Dataset
    from migkit.drivers.replay import Replay
    from migkit.policies import Policy
    from migkit.trace import Trace

DEFAULT_POLICIES = ("kubevirt-1.8", "kubevirt-1.9", "kubevirt-1.9-stall")
_NO_TRACES = "no traces: pass --migkit-traces DIR, or set migkit_traces in the ini file"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The plugin's options."""
    group = parser.getgroup("migkit", "decisions on stored traces")
    group.addoption("--migkit-traces", metavar="DIR", help="folder of the traces that migkit's fixtures run over")
    group.addoption("--migkit-update", action="store_true", help="write what policies decide now as what is expected")
    parser.addini("migkit_traces", "folder of the traces that migkit's fixtures run over", default="")
    parser.addini("migkit_policies", "policies of migkit_policy, one a line", type="linelist", default=[])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a trace, one a policy."""
    config = metafunc.config
    if {"migkit_trace", "migkit_replay"} & set(metafunc.fixturenames):
        skipped = pytest.param(None, marks=pytest.mark.skip(reason=_NO_TRACES), id="no-traces")
        names = _dataset(config).names if _folder(config) else [skipped]
        metafunc.parametrize("_migkit_name", names, indirect=True, scope="session")
    if {"migkit_policy", "migkit_replay"} & set(metafunc.fixturenames):
        texts = config.getini("migkit_policies") or list(DEFAULT_POLICIES)
        metafunc.parametrize("_migkit_policy_text", texts, indirect=True, scope="session")


def _folder(config: pytest.Config) -> Path | None:
    """The folder given: on the command line from where pytest runs, in the ini file from the project's root."""
    given, ini = config.getoption("--migkit-traces"), config.getini("migkit_traces")
    if not given and not ini:
        return None
    return Path(config.invocation_params.dir / given if given else config.rootpath / ini)


_OPENED = pytest.StashKey["Dataset"]()


def _dataset(config: pytest.Config) -> Dataset:
    from migkit.dataset import open_dataset
    from migkit.errors import MigkitError

    place = _folder(config)
    if place is None or not place.is_dir():
        raise pytest.UsageError(f"migkit: {place}: no such folder of traces")
    if _OPENED not in config.stash:
        try:
            config.stash[_OPENED] = open_dataset(place)
        except MigkitError as error:
            raise pytest.UsageError(str(error)) from None
    return config.stash[_OPENED]


@pytest.fixture(scope="session")
def _migkit_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def _migkit_policy_text(request: pytest.FixtureRequest) -> str:
    text: str = request.param
    return text


@pytest.fixture(scope="session")
def migkit_trace(_migkit_name: str, request: pytest.FixtureRequest) -> Trace:
    """Each stored trace in turn."""
    return _dataset(request.config)[_migkit_name]


@pytest.fixture(scope="session")
def migkit_policy(_migkit_policy_text: str) -> Policy:
    """Each policy in turn."""
    from migkit.cli.policies import parse_policy
    from migkit.errors import MigkitError

    try:
        return parse_policy(_migkit_policy_text)[1]
    except MigkitError as error:
        raise pytest.UsageError(f"migkit_policies: {error}") from None


@pytest.fixture
def migkit_replay(migkit_trace: Trace, migkit_policy: Policy) -> Replay:
    """Each trace replayed under each policy."""
    from migkit.drivers.replay import replay

    return replay(migkit_trace, migkit_policy)


@pytest.fixture
def migkit_golden(request: pytest.FixtureRequest) -> Callable[..., None]:
    """A function that holds a replay, several of one trace by label, or a text against golden/NAME.txt at the test."""
    folder = request.path.parent / "golden"
    update = bool(request.config.getoption("--migkit-update"))

    def check(found: Replay | Mapping[str, Replay] | str, name: str = "") -> None:
        if isinstance(found, str):
            text = found
        elif isinstance(found, Mapping):
            text = describe(found)
            name = name or next(iter(found.values())).trace.name
        else:
            text = describe({str(found.policy): found})
            name = name or f"{found.trace.name}.{_file_name(found.policy)}"
        _hold(folder / f"{name}.txt", text, update=update)

    return check


def _file_name(policy: Policy) -> str:
    """Its name and what was set, e.g. kubevirt-1.8.progress_timeout=5."""
    given = [f"{name}={policy.options[name]}" for name in policy.options if name in policy.given]
    return ".".join([policy.name, *given])


def _hold(path: Path, text: str, *, update: bool) -> None:
    if update:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return
    if not path.exists():
        pytest.fail(f"{path}: is not there yet; run pytest with --migkit-update and look at what it writes", False)
    expected = path.read_text()
    if expected != text:
        lines = difflib.unified_diff(expected.splitlines(), text.splitlines(), "expected", "now", lineterm="")
        pytest.fail(f"{path}: decided otherwise (--migkit-update accepts it)\n" + "\n".join(lines), False)


def describe(runs: Mapping[str, Replay]) -> str:
    """Decisions on one trace as a small text, policies that decide alike together, by their labels."""
    groups: dict[str, list[str]] = {}
    for label, run in runs.items():
        groups.setdefault(_decisions(run), []).append(label)
    trace = next(iter(runs.values())).trace
    head = f"{trace.name}: {trace.meta.provenance}, {trace.meta.end.outcome}\n"
    return head + "".join(f"\n{chr(10).join(labels)}\n{text}" for text, labels in groups.items())


def _decisions(run: Replay) -> str:
    lines = [f"  completion deadline {run.deadline_s} s" if run.deadline_s else "  no completion deadline"]
    for d in run.decisions.head(40).itertuples():
        argument = "" if str(d.argument) == "<NA>" else f" {d.argument}"
        failed = "" if d.succeeded else " fails"
        spread = f"{d.t_s:.2f} s ({d.earliest_s:.2f} to {d.latest_s:.2f}, {d.phases} phases)"
        lines.append(f"  {spread} {d.action}{argument}{failed}: {d.reason}, {d.basis}")
    if run.divergence_s is not None:
        lines.append(f"  leaves what was really done at {run.divergence_s:.2f} s")
    if run.decisions.empty:
        lines.append("  does nothing")
    return "\n".join([*lines, f"  ends: {run.result}"]) + "\n"

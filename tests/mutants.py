"""Mutation testing of the decision rules: `python -m tests.mutants [FILE...]`.

Every operator, comparison, constant and boolean of migkit/policies is changed, one at a time; a change that the
conformance cases, the literal reading and the tests of policies/ do not notice is printed. Exit 1 when less than 95 %
are noticed. About ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import ast
import concurrent.futures
import copy
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = ("polling.py", "events.py", "stall.py", "integers.py", "size.py", "versions.py")
LIMIT_S = 240

_COMPARE = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitXor: ast.BitOr, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.RShift: ast.LShift,
}  # fmt: skip


def mutants(tree: ast.Module) -> Iterator[tuple[int, str, ast.Module]]:
    """(line, what was changed, the changed module) for every place that can be changed."""
    for index, node in enumerate(_places(tree)):
        for change in _changes(node):
            changed = copy.deepcopy(tree)
            place = _places(changed)[index]
            said = change(place)
            yield node.lineno, said, ast.fix_missing_locations(changed)


def _places(tree: ast.Module) -> list[ast.AST]:
    """What may be changed: no docstrings, no types, no names of things, no keywords of declarations."""
    quiet = {id(inner) for node in ast.walk(tree) for part in _quiet(node) for inner in ast.walk(part)}
    return [node for node in ast.walk(tree) if id(node) not in quiet and hasattr(node, "lineno")]


def _quiet(node: ast.AST) -> list[ast.AST]:
    if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
        return [node.annotation]
    if isinstance(node, ast.FunctionDef):
        return [part for part in (node.returns, *node.decorator_list) if part is not None]
    if isinstance(node, ast.ClassDef):
        return list(node.decorator_list)
    if isinstance(node, ast.JoinedStr | ast.Raise):
        return [node]
    return []


def _changes(node: ast.AST) -> list:
    found = []
    if isinstance(node, ast.Compare):
        for i, operator in enumerate(node.ops):
            if type(operator) in _COMPARE:
                found.append(lambda n, i=i: _swap(n.ops, i, _COMPARE[type(n.ops[i])]()))
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _ARITHMETIC:
        found.append(lambda n: _replace(n, "op", _ARITHMETIC[type(n.op)]()))
    elif isinstance(node, ast.BoolOp):
        found.append(lambda n: _replace(n, "op", ast.Or() if isinstance(n.op, ast.And) else ast.And()))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        found.append(lambda n: _replace(n, "op", ast.UAdd()) and "not removed")
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        found.append(lambda n: _replace(n, "value", not n.value))
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        found.append(lambda n: _replace(n, "value", n.value + 1))
    return found


def _swap(operators: list[ast.cmpop], i: int, new: ast.cmpop) -> str:
    old, operators[i] = operators[i], new
    return f"{type(old).__name__} -> {type(new).__name__}"


def _replace(node: ast.AST, name: str, new: object) -> str:
    old = getattr(node, name)
    setattr(node, name, new)
    shown = [type(x).__name__ if isinstance(x, ast.AST) else repr(x) for x in (old, new)]
    return f"{shown[0]} -> {shown[1]}"


# A change may loop for ever or collect without end: both are noticed by their appetite.
CHECK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (40, 40))
resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))
sys.path.insert(0, sys.argv[1])
import importlib.abc, importlib.util, json
NAME, SOURCE = sys.argv[2], sys.argv[3]
class Finder(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    def find_spec(self, name, path, target=None):
        return importlib.util.spec_from_loader(name, self, origin=SOURCE) if name == NAME else None
    def get_filename(self, name): return SOURCE
    def get_data(self, path): return open(path, "rb").read()
    def path_stats(self, path): raise OSError
sys.meta_path.insert(0, Finder())
from tests.conformance.cases import mismatches, opened
if NAME.rpartition(".")[2] not in ("size", "versions"):
    with opened(sys.argv[1] + "/tests/conformance/cases.jsonl.xz") as stream:
        for line in stream:
            if any(mismatches(json.loads(line))):
                sys.exit(1)
import pytest
chosen = ["tests/policies", "tests/conformance/test_literal_rules.py", "-k", "not compiled"]
if NAME.endswith(("size", "versions")):
    chosen = ["tests/policies", "tests/test_manifest.py", "tests/conformance/test_conformance.py", "-k", "not compiled"]
quiet = ["-q", "-x", "-p", "no:cacheprovider", "--assert=plain", "--hypothesis-seed=1"]
sys.exit(int(pytest.main([*quiet, *chosen])))
"""


def survives(job: tuple[str, int, str, str]) -> bool:
    """Whether nobody notices this source in the place of the module's own."""
    name, number, _, source = job
    path = Path(f"/tmp/migkit-mutant-{os.getpid()}-{number}.py")
    path.write_text(source)
    command = [sys.executable, "-c", CHECK, str(ROOT), f"migkit.policies.{name.removesuffix('.py')}", str(path)]
    try:
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        ) as run:
            try:
                return run.wait(LIMIT_S) == 0
            except subprocess.TimeoutExpired:
                os.killpg(run.pid, signal.SIGKILL)
                return False
    finally:
        path.unlink()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("files", nargs="*", default=FILES, help="files of migkit/policies (default: all with logic)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    jobs: list[tuple[str, int, str, str]] = []
    for name in arguments.files:
        tree = ast.parse((ROOT / "migkit/policies" / name).read_text())
        if not survives((name, -1, "unchanged", ast.unparse(tree))):
            sys.exit(f"{name}: the tests fail without any change; mend that first")
        for line, said, changed in mutants(tree):
            jobs.append((name, len(jobs), f"{name}:{line}: {said}", ast.unparse(changed)))
    alive = 0
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for job, lives in zip(jobs, pool.map(survives, jobs), strict=True):
            if lives:
                alive += 1
                print(f"survives: {job[2]}", flush=True)
    print(f"mutants={len(jobs)} noticed={len(jobs) - alive} ({100 * (len(jobs) - alive) / len(jobs):.1f} %)")
    return 0 if alive <= 0.05 * len(jobs) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Mutation testing of the decision rules: `python -m tests.mutants [FILE...]`.

Every operator, comparison, constant and boolean of migkit/policies is changed, one at a time; a change that the
conformance cases, the literal reading and the tests of policies/ do not notice is printed. Exit 1 when less than 95 %
are noticed.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib.abc
import importlib.util
import json
import lzma
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = ("polling.py", "events.py", "stall.py", "integers.py", "size.py", "versions.py")

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


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Loads one module of the rules from another source."""

    def __init__(self, name: str, source: str) -> None:
        self.name, self.source = name, source

    def find_spec(self, name, path, target=None):
        return importlib.util.spec_from_loader(name, self) if name == self.name else None

    def get_source(self, name):
        return self.source


def survives(name: str, source: str, cases: list[dict]) -> bool:
    """Whether nobody notices this source in the place of the module's own; in a process of its own."""
    child = os.fork()
    if child == 0:
        # A change may loop for ever or collect without end: both are noticed by their appetite.
        resource.setrlimit(resource.RLIMIT_CPU, (40, 40))
        resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        code = 1
        with contextlib.suppress(BaseException):
            code = _noticed(name, source, cases)
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _noticed(name: str, source: str, cases: list[dict]) -> int:
    """Nought when every check passes."""
    sys.meta_path.insert(0, _Changed(f"migkit.policies.{name.removesuffix('.py')}", source))
    from tests.conformance.cases import mismatches

    if name not in ("size.py", "versions.py") and any(any(mismatches(case)) for case in cases):
        return 1
    import pytest

    chosen = ["tests/policies", "tests/conformance/test_literal_rules.py"]
    if name in ("size.py", "versions.py"):
        chosen = ["tests/policies", "tests/test_manifest.py", "tests/conformance/test_conformance.py"]
    quiet = ["-q", "-x", "-p", "no:cacheprovider", "--assert=plain", "--hypothesis-seed=1", "-k", "not compiled"]
    return int(pytest.main([*quiet, *chosen]))


def _cases(name: str) -> list[dict]:
    """The conformance cases, those that concern a file first, short ones before long ones."""
    with lzma.open(ROOT / "tests/conformance/cases.jsonl.xz", "rt") as stream:
        found = [json.loads(line) for line in stream]
    newer = ("v1.9", "head")
    mine = {"events.py": newer, "stall.py": newer, "polling.py": ("v0", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8")}
    own = mine.get(name, ("v", "head"))
    return sorted(found, key=lambda case: (not case["variant"].startswith(own), len(case["ticks"])))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("files", nargs="*", default=FILES, help="files of migkit/policies (default: all with logic)")
    arguments = parser.parse_args()
    count = alive = 0
    for name in arguments.files:
        cases, tree = _cases(name), ast.parse((ROOT / "migkit/policies" / name).read_text())
        if not survives(name, ast.unparse(tree), cases):
            sys.exit(f"{name}: the tests fail without any change; mend that first")
        for line, said, changed in mutants(tree):
            count += 1
            if survives(name, ast.unparse(changed), cases):
                alive += 1
                print(f"survives: {name}:{line}: {said}", flush=True)
    print(f"mutants={count} noticed={count - alive} ({100 * (count - alive) / count:.1f} %)")
    return 0 if alive <= 0.05 * count else 1


if __name__ == "__main__":
    sys.exit(main())

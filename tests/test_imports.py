"""Imports point one way, and light things stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A module may import from its own layer and from those above it in this list.
LAYERS = (
    ("errors", "units", "conditions"),
    ("schema", "meta"),
    ("failures",),
    ("remote",),
    ("parquet", "trace", "dataset", "samples"),
    ("policies",),
    ("capture", "stats", "fidelity", "migration"),
    ("drivers",),
    ("lab", "card", "downtime", "comparison", "manifest"),
    ("explanation", "tuning"),
    ("plot",),
    ("report",),
    ("cli",),
    ("testing",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
TOP = ("__init__", "__main__")


def imports(path: Path) -> set[str]:
    """Modules of migkit that a file imports, at its top or inside functions; not those for types only."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "migkit":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name for name in names if name != "migkit.__version__"}
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("migkit.")}
    return {name.removeprefix("migkit.") for name in found}


def sources() -> list[Path]:
    return sorted((ROOT / "migkit").rglob("*.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    own = path.relative_to(ROOT / "migkit").parts[0].removesuffix(".py")
    if own in TOP:
        return
    for name in imports(path):
        other = name.split(".")[0]
        assert other in LEVEL, f"{other} has no layer: add it to LAYERS"
        assert LEVEL[other] <= LEVEL[own], f"{own} must not import {name}"


def test_policies_are_pure():
    for path in (ROOT / "migkit/policies").glob("*.py"):
        assert {name.split(".")[0] for name in imports(path)} <= {"policies", "errors"}, path


def test_only_one_module_of_a_room_imports_libvirt():
    users = [str(p.relative_to(ROOT)) for p in sources() if "import libvirt" in p.read_text()]
    assert users == ["migkit/capture/libvirt.py", "migkit/lab/control.py"]


def test_no_file_is_longer_than_400_lines():
    long = {str(p.relative_to(ROOT)): n for p in sources() if (n := len(p.read_text().splitlines())) > 400}
    assert long == {}


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import migkit", "numpy pandas pyarrow numba matplotlib libvirt"),
        ("import migkit.cli.record, migkit.capture.recorder", "numpy pandas numba matplotlib"),
        ("import migkit.migration", "numpy pandas pyarrow numba matplotlib libvirt"),
        ("import migkit; migkit.policy('kubevirt-1.8')", "numpy pandas pyarrow numba matplotlib"),
        ("import migkit; migkit.stats", "matplotlib numba libvirt"),
        ("import migkit; migkit.replay", "matplotlib numba libvirt"),
    ],
)
def test_light_things_stay_light(statement, heavy):
    code = f"import sys; {statement}; sys.exit(', '.join(set('{heavy}'.split()) & set(sys.modules)) or 0)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")

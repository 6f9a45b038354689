"""virsh and QEMU's monitor polled beside real migrations that migkit records: what is imported of them agrees."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from migkit.lab import hosts
from tests.capture.logs.polling import tools
from tests.capture.logs.test_tools import assert_all_agree
from tests.lab.conftest import lab, lab_ready  # noqa: F401

if TYPE_CHECKING:
    from migkit.lab.hosts import Lab

pytestmark = pytest.mark.lab


@pytest.mark.parametrize("name", ["converge-slow", "post-copy"])
def test_what_the_tools_said_meanwhile_agrees_with_the_recording(lab: Lab, name: str, tmp_path: Path) -> None:  # noqa: F811
    words = [sys.executable, "-m", "migkit", "lab", "record", name, "-o", str(tmp_path), "--dir", str(lab.folder)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as recording:
        assert hosts.wait_until(lambda: lab.a.qemu(name) is not None, 60)
        with tools(lab, name, tmp_path):
            assert hosts.wait_until(lambda: lab.a.qemu(name) is None, 120)
        assert recording.wait(120) == 0
    (tmp_path / f"{name}.parquet").rename(tmp_path / "recorded.parquet")
    for path in tmp_path.glob("*.txt"):
        path.with_suffix(".txt.gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
        path.unlink()
    if kept := os.environ.get("MIGKIT_KEEP"):
        shutil.copytree(tmp_path, Path(kept) / name, dirs_exist_ok=True)
    assert_all_agree(tmp_path, tmp_path)

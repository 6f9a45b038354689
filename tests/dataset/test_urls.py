"""Traces behind URLs."""

from __future__ import annotations

import sys

import pytest

import migkit as mk
from migkit.errors import MigkitError
from tests.conftest import TRACES

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def store(tmp_path):
    """A store in memory with a folder of files, the same packed, and nothing else."""
    memory = fsspec.filesystem("memory")
    traces = mk.open_dataset(TRACES)[:3]
    packed = traces.pack(tmp_path / "packed")
    for folder, paths in (
        ("files", [TRACES / f"{name}.parquet" for name in traces.names]),
        ("packed", packed.iterdir()),
    ):
        for path in paths:
            memory.pipe(f"/bucket/{folder}/{path.name}", path.read_bytes())
    yield "memory://bucket"
    memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize("folder", ["files", "packed", "packed/"])
def test_a_folder_behind_a_url_is_a_dataset(store, folder, bundled):
    traces = mk.open_dataset(f"{store}/{folder}")
    assert len(traces) == 3
    for trace in traces:
        assert trace.meta == bundled[trace.name].meta
        assert trace.samples.equals(bundled[trace.name].samples)
    assert traces.catalogue["place"].str.startswith(f"{store}/{folder.rstrip('/')}/").all()
    assert [trace.name for share in traces.partitions(2) for trace in share.traces()] == traces.names


def test_one_file_behind_a_url_is_a_trace(store, bundled):
    name = mk.open_dataset(TRACES).names[0]
    assert mk.load(f"{store}/files/{name}.parquet").samples.equals(bundled[name].samples)
    assert mk.open_dataset(f"{store}/files/{name}.parquet").names == [name]


def test_file_urls_are_paths(bundled):
    assert mk.open_dataset(f"file://{TRACES}").names == list(bundled)


def test_the_same_file_by_two_urls_is_given_twice(store):
    with pytest.raises(MigkitError, match="is given twice"):
        mk.open_dataset(f"{store}/files", f"{store}/files/")


def test_damage_behind_a_url_is_named(store):
    fsspec.filesystem("memory").pipe("/bucket/files/bad.parquet", b"PAR1 no trace PAR1")
    with pytest.raises(MigkitError, match=r"memory://bucket/files/bad\.parquet: not a trace"):
        mk.open_dataset(f"{store}/files")
    assert len(mk.open_dataset(f"{store}/files", skip_bad=True)) == 3


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("memory://nowhere/traces", "memory://nowhere/traces: no such file"),
        ("nope://x", r"nope://x: cannot be reached \(Protocol not known: nope\)"),
    ],
)
def test_a_url_that_leads_nowhere_is_one_line(url, said):
    with pytest.raises(MigkitError, match=said) as caught:
        mk.open_dataset(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("package", "url", "said"),
    [
        ("fsspec", "memory://x", r"reading URLs needs the package fsspec: pip install 'migkit\[remote\]'"),
        ("s3fs", "s3://b/x", r"s3://b/x: a package is missing for this kind of URL \(Install s3fs to access S3\)"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, package, url, said):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MigkitError, match=said):
        mk.open_dataset(url)


def test_packing_writes_to_this_machine(store):
    with pytest.raises(MigkitError, match="packing writes to a folder of this machine"):
        mk.open_dataset(f"{store}/files").pack(f"{store}/out")

"""A watcher's folder: one owner, names that tell, and nothing removed but what it made itself."""

from __future__ import annotations

import calendar
import os
import time

import pytest

from migkit.capture.journal import journal_path
from migkit.capture.watch_folder import Folder, Keep
from migkit.errors import MigkitError

NOON_NS = calendar.timegm((2025, 3, 1, 12, 0, 0)) * 10**9


@pytest.fixture
def folder(tmp_path):
    made = Folder(tmp_path)
    yield made
    made.close()


def names(folder: Folder) -> set[str]:
    return {path.name for path in folder.path.iterdir() if not path.name.startswith(".")}


def trace(folder: Folder, name: str, size: int = 100) -> None:
    (folder.path / name).write_bytes(b"x" * size)


def test_a_name_tells_domain_and_moment_and_is_never_taken_twice(folder):
    path = folder.free("web1", NOON_NS)
    assert path.name == "web1-20250301T120000Z.parquet"
    path.touch()
    second = folder.free("web1", NOON_NS)
    assert second.name == "web1-20250301T120000Z-2.parquet"
    journal_path(second).touch()
    assert folder.free("web1", NOON_NS).name == "web1-20250301T120000Z-3.parquet"


@pytest.mark.parametrize(
    ("domain", "begins"),
    [("../../etc/passwd", "_./.._etc_passwd-"), (".hidden", "_hidden-"), ("-rf", "_rf-"), ("a b ü", "a b ü-"),
     ("new\nline", "new_line-"), ("", "_-"), ("é" * 300, "é" * 80 + "-")],
)  # fmt: skip
def test_whatever_a_domain_is_called_its_trace_is_a_file_of_the_folder(domain, begins, folder):
    path = folder.free(domain, NOON_NS)
    assert path.parent == folder.path
    assert path.name.startswith(begins.replace("/", "_"))
    assert len(os.fsencode(path.name)) < 200
    path.touch()
    assert folder.rotate(Keep(age_s=1), time.time()) == [path]


def test_the_oldest_go_until_the_rest_has_room(folder):
    for day in (3, 1, 2, 4):
        trace(folder, f"web{day}-2025030{day}T000000Z.parquet")
    gone = folder.rotate(Keep(total_bytes=250), time.time())
    assert [path.name for path in gone] == ["web1-20250301T000000Z.parquet", "web2-20250302T000000Z.parquet"]
    assert names(folder) == {"web3-20250303T000000Z.parquet", "web4-20250304T000000Z.parquet"}


def test_the_age_is_that_of_the_migration_not_of_the_file(folder):
    trace(folder, "a-20250301T000000Z.parquet")
    trace(folder, "b-20250301T120000Z.parquet")
    assert [path.name for path in folder.rotate(Keep(age_s=3600), NOON_NS / 1e9 + 60)] == ["a-20250301T000000Z.parquet"]


def test_the_newest_stays_whatever_its_size(folder):
    trace(folder, "a-20250301T000000Z.parquet", 9000)
    assert folder.rotate(Keep(total_bytes=10), time.time()) == []


def test_without_limits_everything_stays(folder):
    trace(folder, "a-19990301T000000Z.parquet")
    assert folder.rotate(Keep(), time.time()) == []


def test_nothing_is_removed_that_a_watcher_does_not_name_so(folder):
    kept = [
        "notes.txt", "web1.parquet", "web1-20250301.parquet", "web1-20259999T999999Z.parquet",
        "20250301T000000Z.parquet",
        "web1-20250301T000000Z.parquet.journal", "web1-20250301T000000Z.parquet.journal.damaged",
        "web1-20250301T000000Z.parquet.bak", "web1-20250301T000000Z (copy).parquet",
    ]  # fmt: skip
    for name in kept:
        trace(folder, name)
    (folder.path / "dir-20250301T000000Z.parquet").mkdir()
    (folder.path / "link-20250301T000000Z.parquet").symlink_to(folder.path / "notes.txt")
    assert folder.rotate(Keep(total_bytes=1, age_s=1), time.time()) == []
    assert names(folder) == {*kept, "dir-20250301T000000Z.parquet", "link-20250301T000000Z.parquet"}


def test_journals_under_way_take_room_too(folder):
    trace(folder, "a-20250301T000000Z.parquet")
    trace(folder, "b-20250302T000000Z.parquet")
    assert folder.rotate(Keep(total_bytes=200), time.time()) == []
    trace(folder, "c-20250303T000000Z.parquet.journal")
    assert len(folder.rotate(Keep(total_bytes=200), time.time())) == 1


def test_a_folder_that_cannot_be_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MigkitError, match="traces cannot be written there"):
        Folder(tmp_path / "file" / "in")

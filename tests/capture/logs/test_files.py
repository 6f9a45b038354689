"""What stands in a file reaches its importer: out of pipes, in any encoding, beside files that cannot be read."""

from __future__ import annotations

import codecs
import gzip
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import migkit as mk
from migkit.capture.logs import files
from migkit.capture.logs.formats import Importer, as_trace
from migkit.cli import main
from tests.capture.logs import rendering, rendering_others
from tests.capture.logs.test_formats import packed

HERE = Path(__file__).parent
LOG = (HERE / "kubevirt" / "mbps-64-times-too-small.log").read_bytes()
RAW = HERE / "raw" / "block_raw.jsonl.gz"


@pytest.fixture(scope="module")
def texts(bundled) -> dict[str, str]:
    """A migration in each format."""
    trace = bundled["downtime-raised"]
    answer = rendering.prometheus(bundled["long-hot-set"])
    lines = {
        "jsonl": gzip.decompress(RAW.read_bytes()).decode().splitlines(),
        "prometheus": [json.dumps(answer)],
        "prometheus text": rendering.scrapes(answer, stamped=True),
        "kubevirt": rendering.kubevirt(trace, "D"),
        "nova": rendering_others.nova(trace, every_ms=2000),
        "vdsm": rendering_others.vdsm(trace, every_ms=2000),
        "qmp": rendering_others.qmp(trace, every_ms=1000, indent=1),
        "virsh scaled": rendering_others.virsh(trace, raw=False),
        "virsh raw": rendering_others.virsh(trace, raw=True),
    }
    return {name: "\n".join(each) + "\n" for name, each in lines.items()}


NAMES = ("jsonl", "prometheus", "prometheus text", "kubevirt", "nova", "vdsm", "qmp", "virsh scaled", "virsh raw")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("mark", "encoding", "end"),
    [
        (codecs.BOM_UTF8, "utf-8", "\r\n"), (codecs.BOM_UTF16_LE, "utf-16-le", "\r\n"),
        (codecs.BOM_UTF16_BE, "utf-16-be", "\n"), (codecs.BOM_UTF32_LE, "utf-32-le", "\n"), (b"", "utf-8", "\r\n"),
    ],
)  # fmt: skip
def test_a_text_in_any_encoding_is_the_same_text(name, mark, encoding, end, texts, tmp_path):
    plain, other = tmp_path / "plain" / "x", tmp_path / "other" / "x"
    for path, data in ((plain, texts[name].encode()), (other, mark + texts[name].replace("\n", end).encode(encoding))):
        path.parent.mkdir()
        path.write_bytes(data)
    whole, recoded = Importer([plain]), Importer([other])
    [expected], [found] = list(whole.imported()), list(recoded.imported())
    assert (found.rows, found.meta, found.skipped) == (expected.rows, expected.meta, expected.skipped)
    assert recoded.read == [(str(other), name.split()[0])]
    assert recoded.skipped == whole.skipped


def test_a_side_file_in_another_encoding_is_read(tmp_path):
    (tmp_path / "x.jsonl.gz").write_bytes(RAW.read_bytes())
    (tmp_path / "x.meta.json").write_bytes(json.dumps({"mem_mib": 77}).encode("utf-16"))
    [trace] = mk.read_log(tmp_path / "x.jsonl.gz")
    assert trace.meta.domain.memory_bytes == 77 * 2**20


def test_a_pipe_given_as_a_path_is_read_from_its_first_line(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(LOG,))
    writer.start()
    importer = Importer([pipe])
    [trace] = [as_trace(found) for found in importer.imported()]
    writer.join()
    assert int(trace.active.sum()) == 25


@pytest.mark.parametrize("data", [LOG, gzip.compress(LOG)])
def test_standard_input_by_its_path_is_read_from_its_first_line(data, tmp_path):
    call = [sys.executable, "-m", "migkit", "import", "/dev/stdin", "-o", str(tmp_path)]
    run = subprocess.run(call, input=data, capture_output=True, check=False)
    assert (run.returncode, run.stderr) == (0, b"")
    assert b": completed; 25 samples" in run.stdout


DEED = '{"component":"virt-launcher","level":"info","msg":"%s","timestamp":"2024-05-06T10:11:10.123456Z"}\n'


def _long(text: str) -> str:
    """A text after more than three blocks of lines that are of no format, a line of the monitor first."""
    return "max downtime set to 700ms\n" + "nothing here\n" * 300_000 + text


@pytest.mark.parametrize("way", ["plain", "gz", "tar", "pipe"])
def test_nothing_before_the_first_known_line_is_lost(way, bundled, tmp_path):
    lines = [json.loads(line)["msg"] for line in rendering.kubevirt(bundled["converge-late"], "C")]
    assert lines[0].startswith("Initiating")
    data = f"{lines[0]}\n{_long(chr(10).join(lines[1:]))}\n".encode()
    path = tmp_path / "long.log"
    if way == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes({"plain": data, "gz": gzip.compress(data, 1), "tar": packed("", {"a.log": data})}[way])
    writer = threading.Thread(target=path.write_bytes, args=(data,)) if way == "pipe" else None
    if writer:
        writer.start()
    importer = Importer([path])
    [trace] = [as_trace(found) for found in importer.imported()]
    if writer:
        writer.join()
    assert list(trace.samples["argument"].dropna()) == [700]
    assert importer.skipped["foreign line"] == 300_000


def test_what_is_too_much_to_be_kept_is_told(texts, monkeypatch, tmp_path):
    monkeypatch.setattr(files, "MOST_KEPT", 2 * 2**20)
    path = tmp_path / "x.tar"
    path.write_bytes(packed("", {"a.log": _long(texts["kubevirt"]).encode()}))
    importer = Importer([path])
    assert len(list(importer.imported())) == 1
    [line] = importer.losses.damaged
    assert re.search(r"a\.log: its first \d MiB, in no known format, were left out", line)


def test_what_cannot_be_read_in_a_folder_is_told_and_the_rest_imported(tmp_path, capsys):
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "a.log").symlink_to(folder / "vanished.log")
    (folder / "b.log").symlink_to(folder / "b.log")
    (folder / "c.log").write_bytes(LOG)
    (folder / "d.log.gz").write_bytes(b"\x1f\x8b\x08\x00 nothing of the kind")
    (folder / "e.tar").write_bytes(packed("", {"x": LOG})[:2000])
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    assert main(["import", str(folder), "-o", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert said.out.startswith(f"{tmp_path}/out/prod-web1-20240506T101110Z.parquet: completed; 25 samples")
    told = said.err.splitlines()
    assert told[:2] == [
        f"migkit: {folder}/a.log: cannot be read (No such file or directory)",
        f"migkit: {folder}/b.log: cannot be read (Too many levels of symbolic links)",
    ]
    assert told[2].startswith(f"migkit: {folder}/d.log.gz: the rest is damaged (")
    assert told[3].startswith(f"migkit: {folder}/e.tar:x: the rest is damaged (")
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 1


def test_a_file_that_is_damaged_at_its_end_is_told_once(tmp_path):
    (tmp_path / "x.log.gz").write_bytes(gzip.compress(LOG)[:-6])
    importer = Importer([tmp_path])
    assert len(list(importer.imported())) == 1
    assert len(importer.losses.damaged) == 1


def test_a_file_that_may_not_be_read_is_told_and_the_rest_imported(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.log").write_bytes(LOG)
    (tmp_path / "b.log").write_bytes(LOG)

    def refused(path, *rest):
        if Path(path).name == "a.log":
            raise PermissionError(13, "Permission denied", str(path))
        return open(path, *rest)

    monkeypatch.setattr(files, "open", refused, raising=False)
    assert main(["import", str(tmp_path), "-o", str(tmp_path / "out")]) == 1
    assert f"migkit: {tmp_path}/a.log: cannot be read (Permission denied)\n" in capsys.readouterr().err
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 1
    with pytest.raises(mk.MigkitError, match=r"a\.log: cannot be read \(Permission denied\)"):
        mk.read_log(tmp_path / "a.log")


def test_a_line_of_a_document_that_is_too_long_ends_its_file_alone(texts, monkeypatch, tmp_path):
    monkeypatch.setattr(files, "LONGEST_DOCUMENT", 2 * 2**20)
    (tmp_path / "a").write_text(texts["virsh raw"] + "x" * 4 * 2**20 + "\n" + texts["virsh raw"])
    (tmp_path / "b").write_text(texts["nova"])
    importer = Importer([tmp_path])
    assert len(list(importer.imported())) == 2
    assert "a line is longer than" in importer.losses.damaged[0]


@pytest.mark.parametrize(
    ("member", "name"),
    [
        ("x" * 300, "x" * 150), (".", "migration"), (".hidden", "hidden"), ("../../.up.jsonl", "up"),
        ("\x1b[2Ja\nb.jsonl.gz", "2Ja-b"), ("c d", "c-d"),
    ],
)  # fmt: skip
def test_a_member_of_an_archive_names_a_file_that_can_be_seen(member, name, tmp_path, capsys):
    path = tmp_path / "x.tar"
    path.write_bytes(packed("", {member: gzip.decompress(RAW.read_bytes())}))
    assert main(["import", str(path), "-o", str(tmp_path / "out")]) == 0
    assert [each.name for each in (tmp_path / "out").iterdir()] == [f"{name}.parquet"]
    assert "\x1b" not in capsys.readouterr().out

"""Files, folders, archives and standard input: whatever holds a log is found, whatever else lies there is told."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import migkit as mk
from migkit.capture.logs import files
from migkit.capture.logs.base import fits, trace_name
from migkit.capture.logs.formats import FORMATS, Importer
from tests.capture.logs import rendering

HERE = Path(__file__).parent
RAW = HERE / "raw"
LOG = (HERE / "kubevirt" / "mbps-64-times-too-small.log").read_bytes()


def packed(mode: str, members: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=f"w:{mode}") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return target.getvalue()


MUST_GATHER = {
    "must-gather/version": b"kubevirt/must-gather\n4.17\n",
    "must-gather/namespaces/prod/pods/virt-launcher-web1-x/compute/compute/logs/current.log": LOG,
    "must-gather/namespaces/prod/pods/virt-launcher-web1-x/compute/compute/logs/previous.log": b"",
    "must-gather/namespaces/prod/kubevirt.io/virtualmachineinstances/web1.yaml": (
        HERE / "kubevirt" / "status-of-a-public-issue.yaml"
    ).read_bytes(),
}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.log", LOG),
        ("x.log.gz", gzip.compress(LOG)),
        ("x.log.xz", lzma.compress(LOG)),
        ("x.log.bz2", bz2.compress(LOG)),
        ("gather.tar", packed("", MUST_GATHER)),
        ("gather.tar.gz", packed("gz", MUST_GATHER)),
        ("gather.tar.xz", packed("xz", MUST_GATHER)),
        ("outer.tar", packed("", {"a/inner.tar.gz": packed("gz", {"b/c.log.gz": gzip.compress(LOG)})})),
        ("crlf.log", LOG.replace(b"\n", b"\r\n")),
        ("no-newline-at-the-end.log", LOG.rstrip(b"\n")),
    ],
)
def test_a_log_is_found_however_it_is_packed(name, data, tmp_path):
    [plain] = mk.read_log(HERE / "kubevirt" / "mbps-64-times-too-small.log")
    path = tmp_path / name
    path.write_bytes(data)
    [trace] = mk.read_log(path)
    assert trace.samples.equals(plain.samples)
    assert trace.name == plain.name


def test_the_objects_of_a_must_gather_say_what_its_logs_do_not(tmp_path):
    path = tmp_path / "gather.tar.gz"
    path.write_bytes(packed("gz", MUST_GATHER))
    [trace] = mk.read_log(path)
    domain = trace.meta.domain
    assert (domain.memory_bytes, domain.vcpus, domain.has_vfio) == (8 * 2**30, 8, False)


class _Piped:
    """Standard input of a slow writer: a few bytes at a time, no way back."""

    def __init__(self, data: bytes) -> None:
        self.buffer = io.BufferedReader(_Slow(data), 100)


class _Slow(io.RawIOBase):
    def __init__(self, data: bytes) -> None:
        self._stream = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        piece = self._stream.read(min(len(buffer), 37))
        buffer[: len(piece)] = piece
        return len(piece)


@pytest.mark.parametrize(("data", "vcpus"), [(LOG, None), (gzip.compress(LOG), None), (packed("gz", MUST_GATHER), 8)])
def test_standard_input_is_read_to_its_end(data, vcpus, monkeypatch):
    monkeypatch.setattr(sys, "stdin", _Piped(data))
    [trace] = mk.import_logs("-")
    assert int(trace.active.sum()) == 25
    # Of an archive, the objects behind the log are used too.
    assert trace.meta.domain.vcpus == vcpus


def test_each_format_is_told_from_its_content(bundled, tmp_path):
    import json

    (tmp_path / "a").write_text("\n".join(rendering.kubevirt(bundled["idle"], "C")))
    (tmp_path / "b").write_text(json.dumps(rendering.prometheus(bundled["long-hot-set"])))
    (tmp_path / "c").write_bytes((RAW / "block_raw.jsonl.gz").read_bytes())
    (tmp_path / "d").write_text("nothing of the kind\n")
    importer = Importer([tmp_path])
    list(importer.imported())
    assert [(Path(place).name, name) for place, name in importer.read] == [
        ("a", "kubevirt"), ("b", "prometheus"), ("c", "jsonl"),
    ]  # fmt: skip
    assert [Path(place).name for place in importer.unread] == ["d"]


def test_a_raw_recording_whose_first_line_is_cut_is_one(tmp_path):
    data = gzip.decompress((RAW / "block_raw.jsonl.gz").read_bytes())
    (tmp_path / "x.jsonl").write_bytes(data[30:])
    importer = Importer([tmp_path / "x.jsonl"])
    assert len(list(importer.imported())) == 1
    assert importer.read == [(str(tmp_path / "x.jsonl"), "jsonl")]


def test_an_answer_of_prometheus_with_its_keys_in_another_order_is_one(bundled, tmp_path):
    import json

    answer = rendering.prometheus(bundled["long-hot-set"])
    (tmp_path / "x.json").write_text(json.dumps(answer, sort_keys=True, indent=1))
    assert '"resultType"' not in (tmp_path / "x.json").read_text()[:4096]
    assert len(mk.read_log(tmp_path / "x.json")) == 1


def test_a_log_that_says_nothing_of_kubevirt_for_long_is_still_found(bundled, tmp_path):
    import json

    lines = [json.loads(line)["msg"] for line in rendering.kubevirt(bundled["converge-late"], "C")]
    path = tmp_path / "long.log"
    path.write_text("nothing here\n" * 300_000 + "\n".join(lines))
    assert len(mk.read_log(path)) == 1


def test_a_log_in_blocks_of_any_size_is_the_same_log():
    parts = [LOG[i : i + 97] for i in range(0, len(LOG), 97)]
    needles = FORMATS["kubevirt"].NEEDLES
    small = list(files.Split("x", needles, Counter()).lines(iter(parts)))
    large = list(files.Split("x", needles, Counter()).lines(iter([LOG])))
    assert small == large
    assert [line.number for line in large] == list(range(1, LOG.count(b"\n") + 1))


@given(lines=st.lists(st.sampled_from([b"a", b"igration", b"x igration y", b"", b"Signal igration"]), max_size=12),
       size=st.integers(1, 9))  # fmt: skip
def test_every_line_is_chosen_or_counted(lines, size):
    data = b"".join(line + b"\n" for line in lines)
    skipped: Counter[str] = Counter()
    split = files.Split("x", [b"igration", b"Signal"], skipped)
    chosen = list(split.lines(iter([data[i : i + size] for i in range(0, len(data), size)])))
    assert [line.text for line in chosen] == [line for line in lines if b"igration" in line]
    assert [line.number for line in chosen] == [n for n, line in enumerate(lines, 1) if b"igration" in line]
    assert skipped["foreign line"] + len(chosen) == len(lines) == split.number


def test_rotated_logs_are_read_oldest_first(tmp_path):
    for name in ("0.log", "0.log.1", "0.log.2.gz", "0.log.20240101-000000", "current.log", "previous.log"):
        (tmp_path / name).write_text("x\n")
    order = [Path(source.place).name for source in files.sources([tmp_path], files.Losses())]
    assert order.index("0.log.2.gz") < order.index("0.log.1") < order.index("0.log")
    assert order.index("0.log.20240101-000000") < order.index("0.log")
    assert order.index("previous.log") < order.index("current.log")


@pytest.mark.parametrize("name", ["x.log.gz", "gather.tar.gz", "x.log.xz"])
def test_a_damaged_archive_gives_what_it_still_holds_and_says_so(name, bundled, tmp_path):
    log = "\n".join(rendering.kubevirt(bundled["nonconverging-long"], "C")).encode()
    noise = bytes(range(256)) * 400
    whole = {
        "x.log.gz": lambda: gzip.compress(log + noise, 1),
        "x.log.xz": lambda: lzma.compress(log + noise),
        "gather.tar.gz": lambda: packed("gz", {"a.log": log, "b": noise}),
    }[name]()
    path = tmp_path / name
    path.write_bytes(whole[: len(whole) - 40])
    importer = Importer([path])
    found = list(importer.imported())
    assert len(found) == 1
    assert any("the rest is damaged" in line for line in importer.losses.damaged)


MAGIC = (b"", b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\x00", b'{"resultType":', b'{"component":"virt-launcher"',
         b'{"t_mono_ns":1,"t_wall":1,"kind":"stats"')  # fmt: skip


@given(data=st.binary(max_size=3000), magic=st.sampled_from(MAGIC))
def test_arbitrary_bytes_never_break_an_importer(data, magic, tmp_path_factory):
    path = tmp_path_factory.mktemp("bytes") / "x"
    path.write_bytes(magic + data)
    list(mk.import_logs(path))
    for name in FORMATS:
        list(mk.import_logs(path, log_format=name))


@pytest.mark.parametrize("name", FORMATS)
@given(place=st.floats(0, 1), noise=st.binary(max_size=30), length=st.integers(0, 30))
def test_a_mutated_file_never_breaks_its_importer(name, place, noise, length, tmp_path_factory):
    data = {
        "jsonl": lambda: gzip.decompress((RAW / "precopy_converge_32.jsonl.gz").read_bytes())[:60_000],
        "prometheus": lambda: (HERE / "prometheus" / "recorded-nonconverging.json").read_bytes(),
        "kubevirt": lambda: LOG,
    }.get(name, lambda: b"")()
    at = int(place * len(data))
    path = tmp_path_factory.mktemp("mutated") / "x"
    path.write_bytes(data[:at] + noise + data[at + length :])
    for trace in mk.import_logs(path, log_format=name):
        assert mk.load(trace.save(path.with_suffix(".parquet"), force=True)).samples.equals(trace.samples)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log_format": "kubvirt"}, "unknown format 'kubvirt': did you mean 'kubevirt'"),
        ({"version": "1.88"}, "unknown KubeVirt version '1.88': did you mean '1.8'"),
        ({"version": "abc"}, "unknown KubeVirt version 'abc'"),
        ({"manifests": ["/nowhere.yaml"]}, "/nowhere.yaml: cannot be read"),
    ],
)
def test_a_wrong_call_is_refused_with_what_to_do(options, message):
    with pytest.raises(mk.MigkitError, match=message):
        list(mk.import_logs(RAW, **options))


def test_a_place_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(mk.MigkitError, match="no such file or folder"):
        list(mk.import_logs(tmp_path / "nowhere"))
    with pytest.raises(mk.MigkitError, match="the folder is empty"):
        list(mk.import_logs(tmp_path))


@pytest.mark.parametrize("name", ["block_raw", "stall_link", "postcopy_switch"])
def test_a_raw_recording_is_the_same_trace_by_either_way(name, bundled):
    [trace] = mk.read_log(RAW / f"{name}.jsonl.gz")
    assert trace.name == name
    assert trace.samples.equals(bundled[name].samples)
    assert trace.meta == bundled[name].meta


def test_names_are_fit_for_files():
    assert trace_name("prod/../web 1", 0) == "prod-..-web-1-19700101T000000Z"
    assert trace_name("", None) == "migration"
    assert trace_name("../..", None, "") == "migration"


@pytest.mark.parametrize(
    "row", [{"mono_ns": 2**63}, {"memory_bps": -1}, {"job_type": True}, {"action": 3}, {"mono_ns": 1.0}]
)
def test_what_does_not_fit_a_column_is_no_row(row):
    assert not fits(row)

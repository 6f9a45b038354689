"""Nothing that a file of virsh, QMP, nova-compute or vdsm holds breaks its reader, or becomes a number from nowhere."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import migkit as mk
from migkit.capture.logs.base import Imported
from migkit.capture.logs.formats import FORMATS, Importer, as_trace
from migkit.cli import main
from tests.capture.logs import rendering_others as rendering

FEW = settings(max_examples=20)  # each of five formats
NAMES = ("virsh scaled", "virsh raw", "qmp", "nova", "vdsm")


class Logs(dict[str, str]):
    """Texts by format, short in a report."""

    def __repr__(self) -> str:
        return f"<{', '.join(self)}>"


@pytest.fixture(scope="module")
def logs(bundled) -> Logs:
    """A migration in each format."""
    trace = bundled["downtime-raised"]
    lines = {
        "virsh scaled": rendering.virsh(trace, raw=False),
        "virsh raw": rendering.virsh(trace, raw=True),
        "qmp": rendering.qmp(trace, every_ms=1000, indent=1),
        "nova": rendering.nova(trace, every_ms=2000),
        "vdsm": rendering.vdsm(trace, every_ms=2000),
    }
    return Logs({name: "\n".join(each) + "\n" for name, each in lines.items()})


def read(text: str, name: str, folder: Path) -> list[mk.Trace]:
    path = folder / "x"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    importer = Importer([path], log_format=name.split()[0])
    return [as_trace(found) for found in importer.imported()]


@pytest.mark.parametrize("name", NAMES)
def test_a_format_is_told_from_its_content(name, logs, tmp_path):
    for known, text in logs.items():
        matching = [other for other, module in FORMATS.items() if module.matches(text.encode())]
        assert matching == [known.split()[0]]


CUTS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 40), st.text(st.characters(codec="latin-1"), max_size=20)), max_size=6
)


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(cuts=CUTS)
def test_a_mutated_file_is_read_as_far_as_it_goes(name, cuts, logs, tmp_path_factory):
    text = logs[name]
    for place, length, noise in cuts:
        at = int(place * len(text))
        text = text[:at] + noise + text[at + length :]
    folder = tmp_path_factory.mktemp("mutated")
    for trace in read(text, name, folder):
        assert mk.load(trace.save(folder / "x.parquet", force=True)).samples.equals(trace.samples)
        assert trace.active.any()
        assert trace.samples["mono_ns"].is_monotonic_increasing


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(place=st.floats(0, 1))
def test_what_is_read_of_a_cut_file_stands_in_the_whole_one(name, place, logs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut")
    [whole] = read(logs[name], name, folder)
    numbers = [c for c in whole.samples.columns if c not in ("mono_ns", "wall_ns", "extra", "time_elapsed_ms")]
    known = {column: set(whole.samples[column].dropna()) for column in numbers}
    for trace in read(logs[name][: int(place * len(logs[name]))], name, folder):
        for column in numbers:
            assert set(trace.samples[column].dropna()) <= known[column], column


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(value=st.integers(0, 10**24), which=st.integers(0, 400))
def test_no_number_breaks_a_reader(name, value, which, logs, tmp_path_factory):
    places = list(re.finditer(r"\d+", logs[name]))
    at = places[which % len(places)]
    folder = tmp_path_factory.mktemp("number")
    for trace in read(logs[name][: at.start()] + str(value) + logs[name][at.end() :], name, folder):
        trace.save(folder / "x.parquet", force=True)


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(order=st.randoms(use_true_random=False))
def test_shuffled_lines_break_nothing(name, order, logs, tmp_path_factory):
    lines = logs[name].splitlines()
    order.shuffle(lines)
    for trace in read("\n".join(lines), name, tmp_path_factory.mktemp("shuffled")):
        assert trace.active.any()


@pytest.mark.parametrize("name", NAMES)
def test_foreign_lines_between_change_nothing_and_are_counted(name, logs, tmp_path):
    [whole] = read(logs[name], name, tmp_path)
    foreign = "2026-08-01T10:00:00Z nothing of a migration" if name in ("nova", "vdsm") else "# nothing of a migration"
    # Between documents and blocks, not inside them.
    inside = {"qmp": r"\n(?=\{|\d{10})", "virsh raw": r"\n(?=\w{3} \w{3} )", "virsh scaled": r"\n(?=\w{3} \w{3} )"}
    parts = re.split(inside.get(name, r"\n"), logs[name])
    path = tmp_path / "mixed"
    path.write_text(f"\n{foreign}\n".join(parts))
    importer = Importer([path])
    [trace] = [as_trace(found) for found in importer.imported()]
    assert trace.samples.drop(columns=["mono_ns", "time_elapsed_ms"]).equals(
        whole.samples.drop(columns=["mono_ns", "time_elapsed_ms"])
    )
    assert importer.skipped["foreign line"] >= len(parts) - 1


LAUNCHER = (
    '{"msg":"Migration info for 5c2bdcd3-1b1d-4a1e-8f5e-0d8f9a1b2c3d: TimeElapsed:4000ms DataProcessed:115MiB '
    "DataRemaining:125MiB DataTotal:256MiB MemoryProcessed:115MiB MemoryRemaining:125MiB MemoryTotal:256MiB "
    "MemoryBandwidth:268Mbps DirtyRate:0Mbps Iteration:1 PostcopyRequests:0 ConstantPages:1 NormalPages:2 "
    'NormalData:115MiB ExpectedDowntime:300ms DiskMbps:0","name":"web1","namespace":"prod","uid":"1","iteration":%s,'
    '"timestamp":"%s","source":"event"}'
)
VDSM = "2026-08-01 08:00:00,000+0000 INFO (migsrc/a) [virt.vm] (vmId='a486876a-c79c-4d51-a9ac-410b4635fcc8') "


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("kubevirt", LAUNCHER % ("1", "9999-12-31T23:59:59Z")),
        ("kubevirt", LAUNCHER % ("1", "0001-01-01T00:00:00Z")),
        ("kubevirt", LAUNCHER % ("1", "\\ud800")),
        ("kubevirt", LAUNCHER % (10**30, "2026-08-01T08:00:00Z")),
        ("kubevirt", LAUNCHER % (-5, "2026-08-01T08:00:00Z")),
        ("qmp", '{"return": {"status": [], "ram": {"dirty-sync-count": 1}}}'),
        ("qmp", '{"event": "MIGRATION", "data": {"status": []}, "timestamp": {"seconds": 1, "microseconds": 2}}'),
        ("prometheus", '{"data": {"resultType": "matrix", "result": [{"metric": {"__name__": '
                       '"kubevirt_vmi_migration_data_remaining_bytes", "name": "a"}, "values": [[1, 1HUGE]]}]}}'),
        ("vdsm", VDSM + "Migrating to qemu+tls://x/system with params {1, 2} and flags 3 (migration:1)"),
        ("vdsm", VDSM + "Migrating to qemu+tls://x/system with params {[]: 1} and flags 3 (migration:1)"),
    ],
)  # fmt: skip
def test_values_of_the_wrong_kind_are_left_out(name, text, tmp_path):
    path = tmp_path / "a.log"
    path.write_text(text.replace("HUGE", "0" * 400) + "\n")
    for found in Importer([path], log_format=name).imported():
        as_trace(found).save(tmp_path / "a.parquet", force=True)


@pytest.mark.parametrize(
    "spec", ["interfaces: 5", "guest: 1e999999999", "a: &a [*a]", "a: !!bool maybe", 'a: !!int ""', "a: !!timestamp x"]
)
def test_an_object_with_values_of_the_wrong_kind_does_not_end_an_import(spec, logs, tmp_path):
    where = "devices" if "interfaces" in spec else "memory"
    (tmp_path / "vmi.yaml").write_text(
        "kind: VirtualMachineInstance\nmetadata: {name: a, namespace: b}\n"
        f"spec:\n  domain:\n    {where}:\n      {spec}\n"
    )
    (tmp_path / "nova.log").write_text(logs["nova"])
    assert len(list(Importer([tmp_path]).imported())) == 1


RAW = Path(__file__).parent / "raw" / "postcopy_switch"
FACTS = json.loads(RAW.with_suffix(".meta.json").read_text())
RECORDING = gzip.decompress(RAW.with_suffix(".jsonl.gz").read_bytes()).splitlines()[:80]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5)
    | st.sampled_from(["\ud800", "hb_ms=x", "hb_ms=1e999"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=50)
@given(changed=st.dictionaries(st.sampled_from(sorted(FACTS)), JSON, min_size=1, max_size=4))
def test_no_value_of_a_side_file_breaks_the_reader(changed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("side")
    (folder / "x.jsonl").write_bytes(b"\n".join(RECORDING))
    (folder / "x.meta.json").write_text(json.dumps(FACTS | changed))
    [trace] = [as_trace(found) for found in Importer([folder]).imported()]
    saved = mk.load(trace.save(folder / "x.parquet", force=True))
    assert saved.samples.equals(trace.samples)
    assert main(["import", str(folder / "x.jsonl"), "-o", str(folder / "out"), "--force"]) == 0
    assert main(["explain", "--brief", str(folder / "out")]) in (0, 1)


def test_half_a_character_is_replaced_wherever_it_stands(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(RECORDING))
    (tmp_path / "x.meta.json").write_text(json.dumps(FACTS | {"accel": "\ud800kvm", "scenario": "\udfff"}))
    [trace] = [as_trace(found) for found in Importer([tmp_path / "x.jsonl"]).imported()]
    assert trace.meta.host.accelerator == "kvm"
    trace.save(tmp_path / "x.parquet")
    assert len(mk.open_dataset(tmp_path)) == 1


def test_a_row_at_a_time_far_away_is_left_out(tmp_path):
    lines = [json.loads(line) for line in RECORDING]
    for clock, unit in (("t_mono_ns", 10**9), ("t_wall", 1)):
        lines[-1][clock] += 30 * 24 * 3600 * unit
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    [trace] = [as_trace(found) for found in Importer([tmp_path / "x.jsonl"]).imported()]
    assert trace.meta.notes["skipped_lines"]["row at a time far from the migration"] == 1
    assert mk.load(trace.save(tmp_path / "x.parquet")).samples.equals(trace.samples)


@pytest.mark.parametrize(
    ("name", "value"), [("flag_names", 5), ("hb_top_gaps_ms_at_s", 5), ("mem_mib", "256"), ("params", [1])]
)
def test_a_value_of_the_wrong_kind_in_a_side_file_is_counted(name, value, tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(RECORDING))
    (tmp_path / "x.meta.json").write_text(json.dumps(FACTS | {name: value}))
    [found] = Importer([tmp_path / "x.jsonl"]).imported()
    assert found.skipped == {f"{name} of the wrong kind in the .meta.json": 1}
    assert found.meta.host.qemu_version == FACTS["qemu"]


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, "\x80"])
def test_a_side_file_that_is_none_is_told_and_the_recording_imported(text, tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(RECORDING))
    (tmp_path / "x.meta.json").write_bytes(text.encode("latin-1"))
    [found] = Importer([tmp_path / "x.jsonl"]).imported()
    [said] = found.said
    assert re.search(r"x\.meta\.json: .*; mend or remove it$", said)


@settings(max_examples=50)
@given(
    which=st.integers(0, 10**6),
    changed=st.dictionaries(
        st.sampled_from(
            [
                "kind",
                "t_mono_ns",
                "t_wall",
                "stats",
                "lat_us",
                "event",
                "side",
                "ev",
                "ev_n",
                "detail",
                "detail_n",
                "params",
                "iteration",
                "name",
                "flags",
                "ret",
                "result",
                "error",
            ]
        ),
        JSON,
        min_size=1,
        max_size=3,
    ),
)
def test_no_value_of_a_raw_line_breaks_the_reader(which, changed, tmp_path_factory):
    whole = RECORDING
    at = which % len(whole)
    line = json.dumps(json.loads(whole[at]) | changed).encode()
    folder = tmp_path_factory.mktemp("raw")
    (folder / "x.jsonl").write_bytes(b"\n".join([*whole[:at], line, *whole[at + 1 :]]))
    for found in Importer([folder], log_format="jsonl").imported():
        trace = as_trace(found)
        assert mk.load(trace.save(folder / "x.parquet", force=True)).samples.equals(trace.samples)


def test_what_no_column_holds_is_left_out_and_counted():
    meta = mk.sample("post-copy").meta
    rows = [{"mono_ns": 1, "source": "poll"}, {"mono_ns": 2, "memory_bps": 2**64}, {"mono_ns": 3, "action": "\ud800"}]
    trace = as_trace(Imported(rows=rows, meta=meta, name="x"))
    assert list(trace.samples["mono_ns"]) == [1]
    assert trace.meta.notes["skipped_lines"]["row with a value that no column holds"] == 2

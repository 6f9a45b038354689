"""`migkit record` and `migkit recover` as a user meets them."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import migkit as mk
from benchmarks.kills import wait_for_rows
from migkit.capture.fake import FakeDomain
from migkit.capture.journal import Journal, journal_path
from migkit.capture.source import SourceError
from migkit.cli import main
from migkit.meta import TraceMeta

RAW = Path(__file__).parents[1] / "capture" / "logs" / "raw"
FAST = "fake:///fast?speed=8"


def run(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "migkit", *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=120, **options)


def test_a_migration_is_recorded_and_told_in_a_line(tmp_path):
    output = tmp_path / "web1.parquet"
    done = run("record", "web1", "-c", FAST, "-o", str(output))
    assert done.returncode == 0
    assert done.stderr == "waiting for a migration of web1 ...\n"
    assert done.stdout.startswith(f"{output}: completed, ")
    assert done.stdout.endswith("duration 618 ms, downtime 30 ms\n")
    assert mk.load(output).meta.domain.name == "web1"


def test_a_program_reads_json(capsys, tmp_path):
    assert main(["record", "web1", "-c", FAST, "-o", str(tmp_path / "a.parquet"), "--json", "--interval", "10"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["outcome"], told["duration_ms"], told["downtime_ms"]) == ("completed", 618, 30)
    assert told["samples"] > 0


@pytest.mark.parametrize("scenario", ["failed", "abort"])
def test_a_migration_that_fails_is_no_failure_of_the_recorder(scenario, tmp_path):
    assert (
        main(["record", "g", "-c", f"fake:///{scenario}?speed=8", "-o", str(tmp_path / "a"), "--interval", "20"]) == 0
    )


def _stopped(number: int, output: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "migkit", "record", "web1", "-c", "fake:///nonconverging", "-o", str(output)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        process.stderr.readline()
        wait_for_rows(process, journal_path(output))
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(words, process.returncode, out, err)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_it_keeps_what_it_has_and_says_so_in_a_line(number, tmp_path):
    done = _stopped(number, tmp_path / "a.parquet")
    assert done.returncode == 1
    assert done.stdout.startswith(f"{tmp_path}/a.parquet: interrupted, ")
    assert done.stderr.startswith("migkit: interrupted: ")
    assert done.stderr.count("\n") == 1
    assert mk.load(tmp_path / "a.parquet").meta.end.outcome == "interrupted"


PRESSED = """
import os, signal, sys
from migkit.capture import fake, journal, recorder, session, source
from migkit.cli import main, record

def pressed(holder, name, *, after=False):
    real = getattr(holder, name)
    def called(*arguments, **options):
        answer = real(*arguments, **options) if after else None
        os.kill(os.getpid(), signal.SIGINT)
        return answer if after else real(*arguments, **options)
    setattr(holder, name, called)

sys.exit(eval(sys.argv[1]) or main(sys.argv[2:]))
"""


def _pressed(where: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Presses Ctrl-C when a function is called."""
    return subprocess.run(
        [sys.executable, "-c", PRESSED, where, *words], capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("pressed(recorder, 'record')", "nothing was recorded"),
        ("pressed(source, 'open_source')", "nothing was recorded"),
        ("pressed(session, '_completed_stats')", "nothing was recorded"),
        ("pressed(session, 'Journal')", "nothing was recorded"),
        ("pressed(session, 'Journal', after=True)", "nothing was recorded"),
        ("pressed(record, '_say')", "nothing was recorded"),
        ("pressed(fake.FakeDomain, 'subscribe')", "nothing was recorded"),
        ("pressed(recorder, 'finalise')", "{path} is written"),
        ("pressed(recorder, 'finalise', after=True)", "{path} is written"),
        ("pressed(journal.Journal, 'close', after=True)", "{path} is written"),
        ("pressed(fake.FakeDomain, 'close')", "{path} is written"),
        ("pressed(recorder, 'record', after=True)", "{path} is written"),
        ("pressed(record, 'described')", "{path} is written"),
    ],
)
def test_ctrl_c_at_any_moment_is_one_line_and_exit_1(where, said, tmp_path):
    path = tmp_path / "a.parquet"
    done = _pressed(where, "record", "web1", "-c", FAST, "-o", str(path))
    lines = [line for line in done.stderr.splitlines() if not line.startswith("waiting for")]
    assert (done.returncode, len(lines)) == (1, 1), done.stderr
    assert lines[0].startswith("migkit: ")
    assert lines[0].endswith(said.format(path=path))
    assert [found.name for found in tmp_path.iterdir()] == (["a.parquet"] if "written" in said else [])


def test_ctrl_c_while_converting_tells_how_far_it_came(tmp_path):
    files = [str(RAW / f"{name}.jsonl.gz") for name in ("block_raw", "stall_link")]
    done = _pressed("pressed(record, '_converted', after=True)", "record", "--from-jsonl", *files, "-o", f"{tmp_path}")
    assert done.returncode == 1
    assert done.stderr == f"migkit: interrupted: 0 of 2 files were converted, {files[0]} perhaps\n"


def test_a_migration_of_which_no_sample_was_taken_is_told_so(capsys, monkeypatch, tmp_path):
    def busy(self):
        raise SourceError(55, "not running")

    monkeypatch.setattr(FakeDomain, "job_stats", busy)
    words = ["record", "g", "-c", FAST, "--force", "-o", str(tmp_path / "a.parquet")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{tmp_path}/a.parquet: completed, 0 samples (no sample of the running migration was taken)")
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["outcome"], told["samples"]) == ("completed", 0)
    assert told["rows"] > 0


def test_only_samples_of_the_running_migration_are_counted(capsys, tmp_path):
    assert main(["record", "g", "-c", "fake:///abort?speed=20", "-o", str(tmp_path / "a.parquet"), "--json"]) == 0
    told, trace = json.loads(capsys.readouterr().out), mk.load(tmp_path / "a.parquet")
    assert told["samples"] == int(trace.active.sum()) < trace.samples["latency_us"].count()


def test_a_killed_recorder_is_recovered(capsys, tmp_path):
    _stopped(signal.SIGKILL, tmp_path / "a.parquet")
    again = ["record", "web1", "-c", FAST, "-o", str(tmp_path / "a.parquet"), "--force"]
    assert main(again) == 1
    assert f"first run: migkit recover {tmp_path}/a.parquet.journal" in capsys.readouterr().err
    assert main(["recover", str(tmp_path / "a.parquet.journal")]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}/a.parquet: interrupted, ")
    assert main(again) == 0


def test_a_disk_that_fills_up_is_said_in_a_line(tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))

    words = [
        "record",
        "web1",
        "-c",
        "fake:///nonconverging?speed=8",
        "-o",
        str(tmp_path / "a.parquet"),
        "--interval",
        "9",
    ]
    done = run(*words, preexec_fn=limit)
    assert done.returncode == 1
    waiting, said, rest = done.stderr.partition("\n")[0], *done.stderr.split("\n")[1:]
    assert waiting.startswith("waiting")
    assert said.startswith(
        f"migkit: {tmp_path}/a.parquet.journal: cannot be written (File too large): recording stopped"
    )
    assert rest == ""
    assert run("recover", str(tmp_path / "a.parquet.journal")).returncode == 0


def test_damage_is_told_and_the_journal_kept(capsys, tmp_path):
    path = tmp_path / "a.parquet.journal"
    made = Journal(path, TraceMeta())
    for k in range(3):
        made.append({"mono_ns": k, "wall_ns": k, "source": "poll"})
    made.close()
    os.truncate(path, path.stat().st_size - 1)
    assert main(["recover", str(path)]) == 0
    said = capsys.readouterr().out
    assert f"damaged bytes were skipped, the journal is kept as {path}.damaged" in said
    assert not path.exists()
    assert main(["record", "web1", "-c", FAST, "-o", str(tmp_path / "a.parquet"), "--force"]) == 0
    capsys.readouterr()
    words = ["recover", f"{path}.damaged", "-o", str(tmp_path / "b.parquet"), "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["damaged_journal"] == f"{path}.damaged"


def test_raw_recordings_are_converted(capsys, tmp_path):
    files = [str(RAW / f"{name}.jsonl.gz") for name in ("block_raw", "stall_link")]
    assert main(["record", "--from-jsonl", *files, "-o", str(tmp_path / "traces")]) == 0
    assert [path.name for path in sorted((tmp_path / "traces").iterdir())] == [
        "block_raw.parquet",
        "stall_link.parquet",
    ]
    assert main(["record", "--from-jsonl", files[0], "-o", str(tmp_path / "one.parquet")]) == 0
    assert capsys.readouterr().out.count("completed") == 3
    assert mk.load(tmp_path / "one.parquet").meta.provenance == "imported"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("record -o {tmp}/a", 2, "record needs a DOMAIN"),
        ("record g -c fake:///convrge -o {tmp}/a", 1, "did you mean 'converge'?"),
        ("record g -c fake:///idle --no-wait -o {tmp}/a", 1, "g: no migration is running; leave out --no-wait"),
        ("record g -c fake:///idle -o {tmp}", 1, "is a folder"),
        ("record g -c fake:///idle -o {tmp}/none/a", 1, "cannot be written"),
        ("record g -c fake:///idle -o {tmp}/there", 1, "exists already; choose another name or pass --force"),
        ("record g -c fake:///idle --interval 0 -o {tmp}/a", 2, "must be more than 0"),
        ("record g -c fake:///idle --via x -o {tmp}/a", 2, "a fake domain has none"),
        ("record g --via-socket /x -o {tmp}/a", 2, "give both"),
        ("record g --from-jsonl x -o {tmp}/a", 2, "leave out DOMAIN"),
        ("record --from-jsonl nowhere -o {tmp}/a", 1, "nowhere: no such file"),
        ("recover nowhere.journal", 1, "nowhere.journal: no such file"),
        ("recover {tmp}/there", 2, "say with -o"),
        ("recover {tmp}/there -o {tmp}/b", 1, "not a journal of migkit"),
        ("recover {tmp}/there -o {tmp}", 1, "is a folder; name the file to write"),
        ("record g -c fake:///fast?speed=0 -o {tmp}/a", 1, "speed '0': must be more than 0"),
        ("record g -c fake:///fast?speed=nan -o {tmp}/a", 1, "speed 'nan': must be more than 0"),
        ("record g -c fake:///fast?persistent=maybe -o {tmp}/a", 1, "must be true or false"),
    ],
)
def test_bad_input_is_one_line_on_stderr(words, code, said, capsys, tmp_path):
    (tmp_path / "there").write_text("precious, and no journal")
    assert main([word.format(tmp=tmp_path) for word in words.split()]) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_missing_bindings_are_named_with_what_to_install(tmp_path):
    words = ["record", "g", "-o", str(tmp_path / "a")]
    code = f"import sys; sys.modules['libvirt'] = None; from migkit.cli import main; sys.exit(main({words}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("migkit: libvirt's Python bindings are not installed: pip install 'migkit[libvirt]'")
    assert done.stderr.count("\n") == 1


def test_recording_loads_nothing_heavy(tmp_path):
    """pyarrow comes at the end, when the migration is over; the others never."""
    code = (
        "import sys; from migkit.capture import journal, recorder\n"
        "seen = {}\n"
        "real = recorder.finalise\n"
        "def finalise(*a, **k):\n"
        "    seen['before'] = {'numpy', 'pandas', 'pyarrow', 'numba', 'matplotlib'} & set(sys.modules)\n"
        "    return real(*a, **k)\n"
        "recorder.finalise = finalise\n"
        "from migkit.cli import main\n"
        f"main(['record', 'g', '-c', '{FAST}', '-o', '{tmp_path}/a'])\n"
        "after = {'pandas', 'numba', 'matplotlib'} & set(sys.modules)\n"
        "assert not seen['before'] and not after, (seen, after)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

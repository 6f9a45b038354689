"""Errors of libvirt and QEMU become words; what is not known stays unknown."""

from __future__ import annotations

import pytest

import migkit as mk
from migkit import failures
from migkit.capture.outcome import judge
from migkit.cli import main
from migkit.failures import DESTINATION, NOT_KNOWN, NOWHERE, PAUSED, SOURCE, STOPPED, UNKNOWN, failure_of, readable
from migkit.meta import End, Failure, TraceMeta
from migkit.schema import OUTCOMES
from tests.conftest import TRACES

# Code, text, what it is, where the guest is. Texts as libvirt and QEMU write them, with the prefix of the code.
KNOWN = [
    (78, "operation aborted: job 'migration out' canceled by client", "cancelled", SOURCE),
    (78, "operation aborted: migration out: canceled by client", "cancelled", SOURCE),
    (78, "operation aborted: migration out job: canceled by client", "cancelled", SOURCE),
    (9, "operation failed: job 'migration in' failed in post-copy phase", "post-copy failed", NOWHERE),
    (9, "operation failed: Migration protocol interrupted in post-copy mode", "post-copy failed", NOWHERE),
    (55, "Requested operation is not valid: cannot abort migration in post-copy mode", "an abort was refused", UNKNOWN),
    (55, "Requested operation is not valid: switching to post-copy requires migration to be started with "
         "VIR_MIGRATE_POSTCOPY flag", "post-copy could not be started", SOURCE),
    (1, "internal error: unable to execute QEMU command 'migrate-set-capabilities': Postcopy is not yet compatible "
        "with multifd", "refused at once", SOURCE),
    (1, "internal error: unable to execute QEMU command 'migrate-set-capabilities': Postcopy is not supported",
     "post-copy is not possible on a host", SOURCE),
    (1, "internal error: unable to execute QEMU command 'migrate-set-capabilities': Postcopy is not supported: "
        "Userfaultfd not available: Operation not permitted", "post-copy is not possible on a host", SOURCE),
    (9, "operation failed: migration of disk vda failed: Source and target image have different sizes",
     "the destination's volume has another size than the source's", SOURCE),
    (1, "internal error: process exited while connecting to monitor: qemu-kvm: -blockdev {...}: The sum of offset (0) "
        "and size (1073741824) has to be smaller or equal to the  actual size of the containing file (536870912)",
     "the destination's volume is smaller than the source's", SOURCE),
    (49, "Storage pool not found: no storage pool with matching target path '/var/lib/libvirt/images'",
     "the destination has no place for a disk", SOURCE),
    (50, "Storage volume not found: no storage vol with matching name 'web1.qcow2'", "a volume is missing", SOURCE),
    (9, "operation failed: job 'migration out' failed: No space left on device", "no space left", SOURCE),
    (1, "internal error: process exited while connecting to monitor: qemu-kvm: Failed to get \"write\" lock\n"
        "Is another process using the image [/srv/web1.qcow2]?", "a disk's image is locked", SOURCE),
    (38, "Cannot access storage file '/srv/web1.qcow2': No such file or directory", "a disk's file cannot be opened",
     SOURCE),
    (1, "internal error: qemu unexpectedly closed the monitor: qemu-kvm: cannot set up guest memory 'pc.ram': Cannot "
        "allocate memory", "a host has too little memory for the guest", SOURCE),
    (81, "Unsafe migration: Migration may lead to data corruption if disks use cache other than none or directsync",
     "refused as unsafe", SOURCE),
    (81, "Unsafe migration: Migration without shared storage is unsafe", "refused as unsafe", SOURCE),
    (81, "Unsichere Migration", "refused as unsafe", SOURCE),
    (91, "the CPU is incompatible with host CPU: Host CPU does not provide required features: avx512f",
     "the destination's CPU does not fit", SOURCE),
    (9, "operation failed: guest CPU doesn't match specification: missing features: pcid",
     "the destination's CPU does not fit", SOURCE),
    (67, "unsupported configuration: Target CPU model Haswell does not match source Skylake-Client",
     "the destination's description differs", SOURCE),
    (67, "unsupported configuration: Target domain max memory 4194304 does not match source 8388608",
     "the destination's description differs", SOURCE),
    (55, "Requested operation is not valid: host migration TLS directory not configured",
     "TLS was asked for and is not set up", SOURCE),
    (9, "operation failed: job 'migration out' failed: TLS handshake failed: Error in the certificate.",
     "the hosts do not trust each other", SOURCE),
    (45, "authentication failed: authentication failed", "the destination did not let the source in", SOURCE),
    (9, "operation failed: Failed to connect to remote libvirt URI qemu+ssh://host2/system: Cannot recv data: : "
        "Connection reset by peer", "the source cannot connect to the destination's libvirt", SOURCE),
    (38, "unable to connect to server at 'host2:49152': Connection refused", "the destination cannot be reached",
     SOURCE),
    (38, "unable to connect to server at 'host2:16509': No route to host", "the destination cannot be reached", SOURCE),
    (38, "unable to connect to server at 'host2:49152': Connection timed out", "the destination cannot be reached",
     SOURCE),
    (38, "Unable to resolve address 'host2' service '49152': Name or service not known",
     "the destination's name is not known", SOURCE),
    (1, "internal error: Unable to find an unused port in range 'migration' (49152-49215)", "no port is left", SOURCE),
    (68, "Timed out during operation: cannot acquire state change lock (held by "
         "monitor=remoteDispatchDomainMigratePerform3Params)", "libvirt was too busy with this guest", SOURCE),
    (68, "Timed out during operation", "libvirt waited too long", SOURCE),
    (1, "internal error: Attempt to migrate guest to the same host 00000000-0000-4000-8000-000000000001",
     "source and destination are the same host", SOURCE),
    (55, "Requested operation is not valid: cannot migrate a domain with <hostdev mode='subsystem' type='pci'>",
     "a host device cannot migrate", SOURCE),
    (55, "Requested operation is not valid: cannot migrate domain: 0000:3b:02.1: VFIO migration is not supported in "
         "kernel", "a host device cannot migrate", SOURCE),
    (55, "Requested operation is not valid: cannot migrate domain: VFIO device doesn't support migration",
     "a host device cannot migrate", SOURCE),
    (55, "Requested operation is not valid: cannot migrate domain: State blocked by non-migratable CPU device (invtsc "
         "flag)", "something in the guest blocks it", SOURCE),
    (9, "operation failed: domain 'web1' already exists with uuid b6f3ac8e-0000-4000-8000-000000000001",
     "the destination has a guest of that name or UUID", SOURCE),
    (55, "Requested operation is not valid: domain 'web1' is already active",
     "the destination has a guest of that name or UUID", SOURCE),
    (55, "Requested operation is not valid: another migration job is already running for domain 'web1'",
     "another job is in the way", SOURCE),
    (55, "Requested operation is not valid: domain has active block job", "another job is in the way", SOURCE),
    (55, "Requested operation is not valid: cannot migrate domain with I/O error",
     "the guest is paused by an I/O error", PAUSED),
    (1, "internal error: qemu unexpectedly closed the monitor: error while loading state for instance 0x0 of device "
        "'0000:00:02.0/virtio-net'\nload of migration failed: Input/output error",
     "the destination could not load the guest's state", SOURCE),
    (8, "invalid argument: Compression method 'zstd' is only supported with parallel migration",
     "an option is not supported", SOURCE),
    (74, "argument unsupported: Migration option 'multifd' is not supported by QEMU binary",
     "an option is not supported", SOURCE),
    (69, "Failed to make domain persistent after migration: no space", "moved, but not defined on the destination",
     DESTINATION),
    (9, "operation failed: domain is not running on destination host", "the guest did not start on the destination",
     SOURCE),
    (1, "internal error: qemu unexpectedly closed the monitor", "a QEMU ended by itself", SOURCE),
    (9, "operation failed: Lost connection to destination host", "the link between the hosts is dead", SOURCE),
    (1, "internal error: connection closed due to keepalive timeout", "the link between the hosts is dead", SOURCE),
    (1, "internal error: client socket is closed", "the two daemons lost each other", SOURCE),
    (1, "internal error: received hangup event on socket", "the two daemons lost each other", SOURCE),
    (9, "operation failed: job 'migration out' failed: Unable to write to socket: Bad file descriptor",
     "the connection between the two QEMUs broke", SOURCE),
    (9, "operation failed: job 'migration out' failed: Unable to write to socket: Connection reset by peer",
     "the connection between the two QEMUs broke", SOURCE),
    (38, "End of file while reading data: Input/output error", "the source's daemon went away", SOURCE),
    (38, "Cannot recv data: Connection reset by peer", "the source's daemon went away", SOURCE),
    (84, "Operation not supported: migration statistics are available only on the source host",
     "asked on the wrong host", UNKNOWN),
    (42, "Domain not found: no domain with matching uuid '22222222-0000-4000-8000-0000000000cc' (web1)",
     "the guest is no longer here", UNKNOWN),
    (55, "Requested operation is not valid: domain is not running", "the guest does not run here", UNKNOWN),
    (9, "operation failed: domain is not running", "the source's QEMU ended", STOPPED),
    (9, "operation failed: job 'migration out' unexpectedly failed", "QEMU gave the migration up without saying why",
     SOURCE),
    (29, "operation forbidden: read only access prevents virDomainAbortJob", "the caller may not do that", SOURCE),
    (29, "operation virDomainMigrateSetMaxSpeed forbidden for read only access", "the caller may not do that", SOURCE),
]  # fmt: skip


@pytest.mark.parametrize(("code", "text", "what", "where"), KNOWN, ids=[text[:60] for _, text, *_ in KNOWN])
def test_every_known_error_is_read(code, text, what, where):
    found = readable(code, text)
    assert (found.what, found.where_guest_runs, found.original) == (what, where, text)
    assert found.why
    assert found.do


def test_no_entry_of_the_table_is_hidden_by_another():
    met = set()
    for code, text, *_ in KNOWN:
        fitting = [rule for rule in failures.rules() if rule.fits(code, text)]
        met.add(fitting[0] if fitting else next(r for r in failures.rules() if r.by_code and r.code == code))
    assert [rule.pattern or rule.code for rule in failures.rules() if rule not in met] == []


# The end of what libvirt 9.0 says where a connection by SSH, TCP or TLS does not come about; whom it blames, and why.
UNREACHED = [
    ("Cannot recv data: Host key verification failed.: Connection reset by peer", "{} is not trusted", "host key"),
    ("Cannot recv data: @@@@@@@@@@@@@@@@@@@\n@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\n"
     "Host key verification failed.: Connection reset by peer", "{} is not trusted", "another one"),
    ("Cannot recv data: root@h: Permission denied (publickey).: Connection reset by peer",
     "{} does not let SSH in", "none of the keys"),
    ("Cannot recv data: Warning: Permanently added '10.72.132.24' (ED25519) to the list of known hosts. \n"
     "Permission denied, please try again. \nroot@10.72.132.24: Permission denied "
     "(publickey,gssapi-keyex,gssapi-with-mic,password).: Connection reset by peer",
     "{} does not let SSH in", "none of the keys"),
    ("Cannot recv data: ssh: connect to host h port 22: Connection refused: Connection reset by peer",
     "{} cannot be reached by SSH", "SSH port"),
    ("Cannot recv data: ssh: connect to host h port 22: No route to host: Connection reset by peer",
     "{} cannot be reached", "no way"),
    ("Cannot recv data: ssh: connect to host h port 22: Connection timed out: Connection reset by peer",
     "{} does not answer", "firewall"),
    ("Cannot recv data: ssh: Could not resolve hostname nowhere.invalid: Name or service not known: "
     "Connection reset by peer", "the name of {} is not known", "SSH cannot turn it"),
    ("End of file while reading data: sh: 1: nc: not found: Input/output error",
     "{} lacks libvirt's helper for SSH", "virt-ssh-helper"),
    ("Cannot recv data: kex_exchange_identification: Connection closed by remote host: Connection reset by peer",
     "{} cannot be reached", "its own words"),
    ("unable to connect to server at 'h:16509': Connection refused", "{} cannot be reached", "nobody listens"),
    ("unable to connect to server at 'h:16509': No route to host", "{} cannot be reached", "firewall"),
    ("Unable to resolve address 'h' service '16509': Name or service not known", "the name of {} is not known", ""),
    ("Cannot read CA certificate '/etc/pki/CA/cacert.pem': No such file or directory",
     "{} wants TLS, and there is no certificate", "+ssh"),
]  # fmt: skip
REMOTE = "operation failed: Failed to connect to remote libvirt URI qemu+ssh://host2/system: "


@pytest.mark.parametrize(("text", "what", "why"), UNREACHED, ids=[text[:60] for text, *_ in UNREACHED])
def test_a_destination_that_the_source_cannot_connect_to_is_blamed(text, what, why):
    found = readable(9, REMOTE + text)
    assert (found.what, found.where_guest_runs, found.original) == (
        what.format("the destination"), SOURCE, REMOTE + text
    )  # fmt: skip
    assert why in found.why
    assert "{" not in found.do
    assert "\n" not in failures.in_a_line(found)


@pytest.mark.parametrize(("text", "what", "why"), UNREACHED, ids=[text[:60] for text, *_ in UNREACHED])
def test_a_source_that_migkit_cannot_connect_to_is_blamed(text, what, why):
    found = failures.unreachable(text, "qemu+ssh://root@host1/system", "the source")
    assert found is not None
    assert found.what == what.format("the source")
    assert why in found.why
    assert "daemon's user" not in found.do


def test_who_connects_to_a_destination_is_the_daemon_and_its_host_is_named():
    text = REMOTE + UNREACHED[0][0]
    assert readable(9, text).do.startswith("on the source, as its daemon's user (root), run: ssh host2 once")


def test_a_command_that_ended_is_no_daemon_that_went_away():
    assert readable(38, UNREACHED[0][0]).what == "the destination is not trusted"
    found = readable(38, UNREACHED[2][0])
    assert found.what == "the destination does not let SSH in"
    assert "ssh-copy-id USER@h;" in found.do
    assert readable(38, UNREACHED[4][0]).do.endswith("qemu+ssh://h:PORT/system")
    lost = "Cannot recv data: client_loop: send disconnect: Broken pipe: Connection reset by peer"
    assert readable(38, lost).what == "the source's daemon went away"
    assert readable(38, "Cannot recv data: Connection reset by peer").what == "the source's daemon went away"


@pytest.mark.parametrize("more", ["", ": Cannot recv data: : Connection reset by peer", ": the moon was full"])
def test_a_destination_is_blamed_whatever_else_kept_the_source_from_it(more):
    found = readable(9, REMOTE.removesuffix(": ") + more)
    assert (found.what, found.where_guest_runs) == ("the source cannot connect to the destination's libvirt", SOURCE)


def test_no_entry_of_the_connections_is_hidden_by_another():
    met = {next(rule for rule in failures.connections() if rule.fits(None, text)) for text, *_ in UNREACHED}
    assert [rule.pattern for rule in failures.connections() if rule not in met] == []


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (1, ""),
        (1, "internal error: something that libvirt never says"),
        (38, "Cannot get interface MTU on 'br0': No such device"),
        (9, "operation failed: network 'default' is not active"),
        (1, "internal error: unable to execute QEMU command 'cont': Resetting the Virtual Machine is required"),
        (8, "invalid argument: Cannot migrate empty or read-only disk vda"),
        (55, "Requested operation is not valid: cannot undefine domain with nvram"),
        (55, "Requested operation is not valid: No active block job 'vda'"),
        (67, "unsupported configuration: VFIO PCI device assignment is not supported by this version of qemu"),
        (67, "unsupported configuration: usb-hub not supported by QEMU binary"),
        (67, "unsupported configuration: host-certificates mode needs exactly three certificates"),
        (None, "the moon was full"),
    ],
)
def test_an_unknown_error_is_said_to_be_unknown(code, text):
    found = readable(code, text)
    assert (found.what, found.why, found.where_guest_runs, found.original) == (NOT_KNOWN, "", UNKNOWN, text)
    assert found.do


def test_a_text_without_its_code_is_read_no_further_than_it_goes():
    assert readable(None, "domain is not running").where_guest_runs == UNKNOWN


def test_a_text_without_its_code_is_read_as_well():
    assert readable(None, "virError(Code=78, Message='canceled by client')").what == "cancelled"


def test_a_code_that_does_not_belong_to_the_text_speaks_against_it():
    assert readable(9, "End of file while reading data: Input/output error").what == NOT_KNOWN


@pytest.mark.parametrize(
    ("outcome", "phase", "where"),
    [
        ("failed", "", SOURCE), ("failed", "pre-copy", SOURCE), ("failed", "post-copy", NOWHERE),
        ("postcopy-failed", "", NOWHERE), ("lost", "", UNKNOWN), ("interrupted", "", UNKNOWN),
    ],
)  # fmt: skip
def test_where_the_guest_is_follows_from_outcome_and_phase(outcome, phase, where):
    text = "internal error: client socket is closed"
    assert readable(1, text, outcome=outcome, phase=phase).where_guest_runs == where


@pytest.mark.parametrize("code", [1, None])
def test_a_cancelled_migration_is_called_so_whatever_a_qemu_says_as_it_ends(code):
    """As libvirt 9.0 told it: the destination met the cut stream before the source had cancelled."""
    text = (
        "internal error: qemu unexpectedly closed the monitor: 2026-11-25T04:08:40.890062Z qemu-system-x86_64: "
        "check_section_footer: Read section footer failed: -5"
    )
    assert readable(code, text).what == "a QEMU ended by itself"
    failure = readable(code, text, outcome="cancelled")
    assert (failure.what, failure.original, failure.where_guest_runs) == ("cancelled", text, SOURCE)


EXPECTED = {
    "block-volume-missing": ("the destination has no place for a disk", SOURCE),
    "block-volume-small": ("the destination's volume has another size than the source's", SOURCE),
    "destination-daemon-restarted": ("the two daemons lost each other", SOURCE),
    "destination-killed": ("a QEMU ended by itself", SOURCE),
    "link-dead": ("the two daemons lost each other", SOURCE),
    "post-copy-socket-cut": ("post-copy failed", NOWHERE),
    "socket-cut": ("the connection between the two QEMUs broke", SOURCE),
    "source-daemon-restarted": ("the source's daemon went away", SOURCE),
    "src_daemon_restart": ("the source's daemon went away", SOURCE),
}


def test_every_error_of_the_bundled_traces_is_read_right():
    for path in sorted(TRACES.glob("*.parquet")):
        trace = mk.load(path)
        found = failure_of(trace.meta.end)
        if trace.meta.end.outcome == "completed":
            assert found is None
        elif trace.meta.end.outcome == "cancelled":
            assert (found.what, found.where_guest_runs) == ("cancelled", SOURCE), path
        else:
            assert (found.what, found.where_guest_runs) == EXPECTED[path.stem], path


def test_every_error_that_a_poller_met_in_them_is_known():
    for path in sorted(TRACES.glob("*.parquet")):
        rows = mk.load(path).samples[["error_code", "error_text"]].dropna(subset=["error_code"]).drop_duplicates()
        for code, text in rows.itertuples(index=False):
            assert readable(int(code), text).what != NOT_KNOWN, (path, text)


@pytest.mark.parametrize("outcome", [outcome for outcome in OUTCOMES if outcome not in ("completed", "interrupted")])
def test_an_end_without_a_text_has_words_too(outcome):
    found = failure_of(End(outcome=outcome))
    assert found.what != NOT_KNOWN
    assert found.original == ""


def test_a_completed_or_interrupted_migration_has_not_failed():
    assert failure_of(End(outcome="completed")) is None
    assert failure_of(End(outcome="interrupted", error_text="Domain not found", error_code=42)) is None


def judged(**row: object) -> End:
    end = judge([{"mono_ns": 1, **row}])
    assert end is not None
    return end


@pytest.mark.parametrize(
    ("row", "where"),
    [
        ({"source": "poll", "job_type": 0, "domain_state": 1, "domain_reason": 1}, SOURCE),
        ({"source": "poll", "job_type": 0, "domain_state": 3, "domain_reason": 1}, PAUSED),
        ({"source": "lifecycle", "lifecycle_event": 5, "lifecycle_detail": 2}, STOPPED),
        ({"source": "lifecycle", "lifecycle_event": 3, "lifecycle_detail": 8}, NOWHERE),
    ],
)
def test_what_the_recorder_saw_of_the_guest_counts_more_than_the_text(row, where):
    assert failure_of(judged(**row)).where_guest_runs == where


def test_a_failure_survives_in_the_metadata_and_old_metadata_has_none():
    end = failures.with_failure(
        End(outcome="failed", error_code=1, error_text="internal error: client socket is closed")
    )
    assert TraceMeta.from_json(TraceMeta(end=end).to_json()).end.failure == end.failure
    assert isinstance(end.failure, Failure)
    old = TraceMeta(end=End(outcome="failed", error_code=81, error_text="Unsafe migration"))
    assert '"failure"' not in old.to_json()
    assert TraceMeta.from_json(old.to_json()).end.failure is None


def test_a_recording_keeps_its_failure(tmp_path):
    path = tmp_path / "cancelled.parquet"
    found = mk.record("guest", uri="fake:///abort?speed=20", output=path)
    assert found.meta.end.failure.what == "cancelled"
    assert mk.load(path).meta.end.failure == found.meta.end.failure


def test_info_of_one_trace_says_what_went_wrong(capsys):
    assert main(["info", str(TRACES / "block-volume-small.parquet")]) == 0
    out = capsys.readouterr().out
    assert "the destination's volume has another size than the source's: QEMU mirrors" in out
    assert "the guest is on the source" in out
    assert "original: operation failed: migration of disk vda failed" in out
    assert main(["info", str(TRACES / "post-copy.parquet")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_card_of_a_trace_says_what_to_do():
    facts = mk.load(TRACES / "link-dead.parquet").facts()
    assert facts["failure"].startswith("the two daemons lost each other")
    assert facts["guest is"] == SOURCE
    assert "failure" not in mk.load(TRACES / "post-copy.parquet").facts()

"""Policies by name and option: what is known, what is refused, and how numbers are read."""

from __future__ import annotations

import struct
from decimal import Decimal

import pytest

import migkit as mk
from migkit.errors import UsageError
from migkit.policies import policy_names
from migkit.policies.size import data_size_gb, parse_quantity
from migkit.policies.versions import VERSIONS, quantity_factor


def test_every_minor_version_has_a_policy():
    assert policy_names() == [
        "kubevirt-0.59", "kubevirt-1.0", "kubevirt-1.1", "kubevirt-1.2", "kubevirt-1.3", "kubevirt-1.4",
        "kubevirt-1.5", "kubevirt-1.6", "kubevirt-1.7", "kubevirt-1.8", "kubevirt-1.9", "kubevirt-1.9-stall",
        "kubevirt-main", "kubevirt-main-stall", "kubevirt-main-tuning",
    ]  # fmt: skip
    for name in policy_names():
        assert mk.policy(name).name == name


def test_defaults_are_those_of_the_version():
    assert mk.kubevirt("1.3").options["completion_timeout_per_gib"] == 800
    assert mk.kubevirt("1.4").options["completion_timeout_per_gib"] == 150
    assert mk.kubevirt("1.9", stall_detection=True).options["stall_progress_timeout"] == 40


def test_disruption_follows_post_copy_unless_it_is_given():
    assert mk.kubevirt("1.8", allow_post_copy=True).options["allow_workload_disruption"] is True
    given = mk.kubevirt("1.8", allow_post_copy=True, allow_workload_disruption=False)
    assert given.options["allow_workload_disruption"] is False


@pytest.mark.parametrize(
    ("version", "options", "said"),
    [
        ("1.88", {}, "unknown KubeVirt version '1.88': did you mean '1.8'?"),
        ("1.8", {"progres_timeout": 3}, "unknown option 'progres_timeout': did you mean 'progress_timeout'?"),
        ("1.8", {"stall_margin": 3}, "option 'stall_margin' is not in KubeVirt 1.8; it came with 1.9"),
        ("1.4", {"allow_workload_disruption": True}, "it came with 1.5"),
        ("1.9", {"stall_margin": 3}, "has no effect without stall_detection=true"),
        ("1.9", {"stall_detection": True, "ewma_alpha": "0"}, "must be above 0, at most 1"),
        ("1.9", {"stall_detection": True, "ewma_alpha": "1.2"}, "must be above 0, at most 1"),
        ("1.9", {"stall_detection": True, "completion_timeout_factor": 0.9}, "must be at least 1"),
        ("1.9", {"stall_detection": True, "precopy_possible_factor": "1.2345"}, "more than 3 decimals"),
        ("1.9", {"stall_detection": True, "ewma_alpha": "much"}, "'much' is not a number"),
        ("1.9", {"stall_detection": True, "ewma_alpha": "nan"}, "out of range"),
        ("1.8", {"progress_timeout": -1}, "must be 0 or more"),
        ("1.8", {"progress_timeout": "1.5"}, "not a whole number (seconds)"),
        ("1.8", {"allow_post_copy": "perhaps"}, "neither true nor false"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(version, options, said):
    with pytest.raises(UsageError) as caught:
        mk.kubevirt(version, **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_policy_names_the_nearest():
    with pytest.raises(UsageError, match=r"did you mean .kubevirt-1\.9-stall."):
        mk.policy("kubevirt-1.9-stal")
    with pytest.raises(UsageError, match="unknown policy"):
        mk.policy("kubevirt-1.8-stall")


def test_values_outside_admission_are_taken_when_asked():
    assert mk.kubevirt("1.9", admission=False, stall_detection=True, ewma_alpha="7").options["ewma_alpha"] == "7"


def test_the_deadline_is_the_size_in_decimal_gigabytes_rounded_up():
    made = mk.kubevirt("1.8").computed(data_size_gb=data_size_gb(memory="1Gi"), has_vfio=False)
    assert made.acceptable_s == 300


def test_main_reads_factors_as_quantities():
    """0.7 is 700 x 10^-3 there, which is one bit more than 0.7."""
    assert quantity_factor("0.7") == 0.7000000000000001
    assert quantity_factor("1.5") == 1.5
    assert quantity_factor("2") == 2.0
    differ = sum(quantity_factor(f"0.{n:03}") != float(f"0.{n:03}") for n in range(1, 1000))
    assert differ == 144
    stall = {"stall_detection": True, "ewma_alpha": "0.7"}
    bits = [struct.pack(">d", mk.kubevirt(v, **stall).computed(data_size_gb=1, has_vfio=False).alpha).hex()
            for v in ("1.9", "main")]  # fmt: skip
    assert bits == ["3fe6666666666666", "3fe6666666666667"]


@pytest.mark.parametrize(
    ("text", "value"), [("1Gi", 2**30), ("1G", 10**9), ("1500m", 1.5), ("2e3", 2000), ("-1", -1), ("0.5Ki", 512)]
)
def test_quantities_are_exact(text, value):
    assert parse_quantity(text) == value


@pytest.mark.parametrize("text", ["", "1 GiB", "Gi", "1e", "one"])
def test_what_is_no_quantity_is_refused(text):
    with pytest.raises(UsageError, match="not a quantity"):
        parse_quantity(text)


def test_a_policy_says_what_was_set():
    assert str(mk.kubevirt("1.8", progress_timeout=30)) == "kubevirt-1.8 (progress_timeout=30)"
    assert set(VERSIONS["1.8"].options) == set(mk.kubevirt("1.8").options)


def test_every_default_is_the_one_that_kubevirt_documents():
    assert dict(mk.kubevirt("1.4").options) == {
        "progress_timeout": 150, "completion_timeout_per_gib": 150, "allow_post_copy": False,
    }  # fmt: skip
    assert dict(mk.policy("kubevirt-main-stall", downtime_tuning=True).options) == {
        "progress_timeout": 150, "completion_timeout_per_gib": 150, "allow_post_copy": False,
        "allow_workload_disruption": False, "max_downtime_ms": 900, "stall_detection": True, "stall_margin": 4,
        "stall_progress_timeout": 40, "switchover_timeout": 60, "ewma_alpha": "0.4", "precopy_possible_factor": "1.5",
        "patience_window_decay_factor": "0.5", "search_local_minima": True, "completion_timeout_factor": "2",
        "downtime_tuning": True, "initial_ms": 150, "steps": 7, "start_after_iteration": 3, "cooldown_seconds": 10,
    }  # fmt: skip


def test_migrated_volumes_count_since_v1_3():
    assert [mk.kubevirt(v).counts_migrated_volumes for v in ("0.59", "1.2", "1.3", "1.9")] == [False, False, True, True]


def test_the_smallest_factors_are_counted_in_millionths_and_billionths():
    assert quantity_factor("0.000003") == 3 * 10.0**-6
    assert quantity_factor("0.00000007") == 70 * 10.0**-9
    with pytest.raises(UsageError, match="more than 9 decimals"):
        quantity_factor("0.00000000007")


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        ({"max_downtime_ms": 1}, True), ({"max_downtime_ms": 2_000_000}, True), ({"max_downtime_ms": 0}, False),
        ({"max_downtime_ms": 2_000_001}, False), ({"stall_margin": 100}, True), ({"stall_margin": 0}, True),
        ({"stall_margin": 101}, False), ({"ewma_alpha": "1"}, True), ({"ewma_alpha": "0.001"}, True),
        ({"patience_window_decay_factor": "0"}, True), ({"patience_window_decay_factor": "1.001"}, False),
        ({"precopy_possible_factor": "1"}, True), ({"precopy_possible_factor": "0.999"}, False),
        ({"completion_timeout_factor": "1"}, True), ({"progress_timeout": 0}, True),
        ({"progress_timeout": 2**63}, False), ({"progress_timeout": 2**63 - 1}, True),
    ],
)  # fmt: skip
def test_ranges_include_their_ends(options, taken):
    if taken:
        assert mk.kubevirt("1.9", stall_detection=True, **options).given >= set(options)
        return
    with pytest.raises(UsageError, match="out of range"):
        mk.kubevirt("1.9", stall_detection=True, **options)


@pytest.mark.parametrize(
    ("suffix", "value"),
    [("n", "1e-9"), ("u", "1e-6"), ("m", "1e-3"), ("", "1"), ("k", "1e3"), ("M", "1e6"), ("G", "1e9"), ("T", "1e12"),
     ("P", "1e15"), ("E", "1e18"), ("e2", "100"), ("E-1", "0.1"), ("Ki", 2**10), ("Mi", 2**20), ("Gi", 2**30),
     ("Ti", 2**40), ("Pi", 2**50), ("Ei", 2**60)],
)  # fmt: skip
def test_every_suffix_of_a_quantity_is_known(suffix, value):
    assert parse_quantity(f"3{suffix}") == 3 * Decimal(value)


def test_sizes_are_rounded_up_before_they_are_added():
    assert data_size_gb(memory="1n", ephemeral_bytes=0) == 1
    assert data_size_gb(memory=None) == 0
    assert data_size_gb(memory=10**9, migrated_bytes=["500m"]) == 2
    assert data_size_gb(memory=10**9 - 1, ephemeral_bytes=1) == 1

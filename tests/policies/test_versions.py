"""Policies by name and option: what is known, what is refused, and how numbers are read."""

from __future__ import annotations

import struct

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

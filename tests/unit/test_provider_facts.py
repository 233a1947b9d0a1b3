"""What real machines print becomes their facts (tests/fixtures/hosts/README.md says where the records come from)."""

from pathlib import Path

import pytest

from babelrack.provider.facts import read_facts
from babelrack.provider.needs import is_model

RECORDED = Path(__file__).parents[1] / "fixtures" / "hosts"


def facts(name):
    return read_facts((RECORDED / f"{name}.txt").read_text().splitlines())


@pytest.mark.parametrize(
    ("name", "count", "model", "memory_gib"),
    [
        ("l4", 1, "NVIDIA L4", 22.5),
        ("t4", 1, "Tesla T4", 15.0),
        ("l40s-2", 2, "NVIDIA L40S", 45.0),
        ("a100-80gb-8", 8, "NVIDIA A100-SXM4-80GB", 80.0),
        ("h100-8", 8, "NVIDIA H100 80GB HBM3", 79.6),
        ("rtx-3080-ti-desktop", 1, "NVIDIA GeForce RTX 3080 Ti", 12.0),
        ("rtx-a5000-2", 2, "NVIDIA RTX A5000", 24.0),
        ("rtx-pro-6000", 1, "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", 95.6),
        ("a100-80gb-mig", 1, "NVIDIA A100-SXM4-80GB", 80.0),
    ],
)
def test_gpus_are_counted_named_and_measured(name, count, model, memory_gib):
    gpus = facts(name).gpus
    assert [(gpu.model, gpu.memory_gib) for gpu in gpus] == [(model, memory_gib)] * count
    assert [gpu.index for gpu in gpus] == list(range(count))
    assert all(gpu.uuid.startswith("GPU-") and gpu.driver for gpu in gpus)


def test_switches_sound_and_other_makers_displays_are_no_gpus():
    assert facts("a100-80gb-8").gpus_on_the_bus == 8
    assert facts("h100-8").gpus_on_the_bus == 8
    assert facts("rtx-3080-ti-desktop").gpus_on_the_bus == 1


def test_before_the_driver_is_installed_the_bus_tells_count_model_and_memory():
    without, with_driver = facts("h100-8-no-driver"), facts("h100-8")
    assert not without.has_driver
    assert without.driver_fault is None
    same = [(gpu.index, gpu.pci_address, gpu.model, gpu.memory_gib) for gpu in with_driver.gpus]
    assert [(gpu.index, gpu.pci_address, gpu.model, gpu.memory_gib) for gpu in without.gpus] == same


def test_a_gpu_that_is_cut_into_mig_instances_is_known():
    assert [gpu.mig for gpu in facts("a100-80gb-mig").gpus] == [True]
    assert {gpu.mig for name in ("a100-80gb-8", "t4") for gpu in facts(name).gpus} == {False}


def test_an_unknown_card_without_a_driver_is_counted_but_not_guessed():
    lines = [line for line in (RECORDED / "rtx-3080-ti-desktop.txt").read_text().splitlines() if "smi" not in line]
    (gpu,) = read_facts(lines).gpus
    assert (gpu.model, gpu.memory_gib) == (None, None)


def test_a_gpu_that_the_driver_lost_is_still_on_the_bus():
    lost = [gpu.pci_address for gpu in facts("h100-8-one-lost").gpus if gpu.driver is None]
    assert lost == ["0000:df:00.0"]


def test_a_broken_driver_is_told_apart_from_none():
    broken = facts("l4-driver-broken")
    assert broken.driver_fault.startswith("NVIDIA-SMI has failed")
    assert [gpu.model for gpu in broken.gpus] == ["NVIDIA L4"]


def test_values_that_nvidia_smi_does_not_know_stay_unknown():
    lines = [line.replace("23034", "[N/A]") for line in (RECORDED / "l4.txt").read_text().splitlines()]
    assert read_facts(lines).gpus[0].memory_gib is None


def test_the_machine_itself_is_described():
    seen = facts("l40s-2")
    assert (seen.os_id, seen.os_version, seen.os_name) == ("ubuntu", "24.04", "Ubuntu 24.04.4 LTS")
    assert (seen.cpus, seen.ram_gib, seen.architecture) == (96, 503.6, "x86_64")
    assert (seen.disk_gib, seen.disk_free_gib) == (1797.9, 1520.8)


@pytest.mark.parametrize("kind", ["disk", "memory", "cpus", "kernel"])
def test_an_answer_without_a_fact_is_refused(kind):
    lines = [line for line in (RECORDED / "l4.txt").read_text().splitlines() if not line.startswith(f"{kind} ")]
    with pytest.raises(ValueError, match="facts can't be read"):
        read_facts(lines)


@pytest.mark.parametrize(
    ("wanted", "model", "fits"),
    [
        ("L4", "NVIDIA L4", True),
        ("L4", "NVIDIA L40S", False),
        ("L40", "NVIDIA L40S", False),
        ("NVIDIA T4", "Tesla T4", True),
        ("A100", "NVIDIA A100-SXM4-80GB", True),
        ("A100 80GB", "NVIDIA A100-SXM4-80GB", True),
        ("A100 80GB", "NVIDIA A100-SXM4-40GB", False),
        ("A100 80GB", "NVIDIA A100 80GB PCIe", True),
        ("A100-80GB", "NVIDIA A100-SXM4-80GB", True),
        ("h100", "NVIDIA H100 80GB HBM3", True),
        ("H100", "NVIDIA H200", False),
        ("A10", "NVIDIA A100-SXM4-80GB", False),
        ("RTX A5000", "NVIDIA RTX A5000", True),
        ("RTX PRO 6000", "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", True),
    ],
)
def test_a_model_is_matched_by_whole_words(wanted, model, fits):
    assert is_model(wanted, model) is fits

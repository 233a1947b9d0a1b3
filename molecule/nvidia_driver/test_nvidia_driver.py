"""What the role leaves on a host."""

import pytest

BRANCH = {"host-1": "535", "host-2": "550"}


@pytest.fixture
def branch(host):
    name = host.ansible.get_variables()["inventory_hostname"]
    if name not in BRANCH:
        pytest.skip("a host without a GPU, which the role leaves alone")
    return BRANCH[name]


@pytest.mark.parametrize("package", ["nvidia-smi", "libcuda1", "nvidia-persistenced"])
def test_the_driver_is_of_the_branch(host, branch, package):
    assert host.package(package).is_installed
    assert host.package(package).version.startswith(f"{branch}.")


def test_the_driver_can_be_asked_and_says_that_there_is_no_gpu(host, branch):
    # Its exit code may be 255, which SSH has for its own failures.
    said = host.check_output("nvidia-smi || true")
    assert "NVIDIA-SMI has failed" in said or "Failed to initialize NVML" in said
    assert branch in host.check_output("ldconfig -p | grep -o '/.*libcuda.so.1$' | xargs readlink -f")


def test_apt_keeps_to_the_branch(host, branch):
    pinned = host.check_output("apt-cache policy nvidia-smi libcuda1")
    assert f"Candidate: {branch}." in pinned
    assert " 1001" in pinned


def test_a_kernel_module_is_not_built_where_the_kernel_brings_it(host, branch):
    assert host.run("dpkg --list | grep --quiet '^ii.*-dkms '").rc == 1


def test_a_host_without_a_gpu_is_left_alone(host):
    if host.ansible.get_variables()["inventory_hostname"] != "host-3":
        pytest.skip("a host that has the packages")
    assert host.run("dpkg --list | grep --quiet '^ii  nvidia'").rc == 1
    assert not host.file("/etc/modprobe.d/babelrack-nouveau.conf").exists
    assert not host.file("/etc/systemd/system/babelrack-gpu-persistence.service").exists

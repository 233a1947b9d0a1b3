"""A release: the wheels that hosts install, built from the lock, with checksums."""

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import zipfile

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

from babelrack.cli.release import app
from babelrack.release import (
    ReleaseError,
    Sources,
    Target,
    build_release,
    find_release,
    list_releases,
    read_release,
    verify_release,
)
from babelrack.release.lock import read_lock
from babelrack.release.pip import INSTALLER

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
CPYTHON = f"cp{PYTHON.replace('.', '')}"
TORCH_TAG = f"{CPYTHON}-{CPYTHON}-manylinux_2_28_x86_64"
LOCK = """\
# a comment
Torch==2.0.0
silero==6.2.3
server==1.5
reload==0.9
shared_lib==1.1
pytest==9.0
"""


def write_wheel(folder, name, version, requires=(), tag="py3-none-any", files=None):
    """A small wheel, but a real one: pip installs it."""
    info = f"{name}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
    members = {
        f"{name}/__init__.py": f'version = "{version}"\n',
        **(files or {}),
        f"{info}/METADATA": "\n".join(metadata) + "\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = "".join(
        f"{member},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip('=')},{len(text)}\n"
        for member, text in members.items()
    )
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in {**members, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(zipfile.ZipInfo(member), text)
    return path


def write_torch(folder, version, cuda=None, tag=TORCH_TAG):
    text = f"from typing import Optional\n__version__ = '{version}'\ncuda: Optional[str] = {cuda!r}\n"
    return write_wheel(folder, "torch", version, ["shared-lib"], tag, files={"torch/version.py": text})


def fill(folder):
    """A market: what pip may choose from."""
    folder.mkdir()
    write_torch(folder, "2.0.0+cpu")
    write_torch(folder, "2.1.0")
    write_wheel(folder, "silero", "6.2.3", ["torch>=1", "torchaudio<2.10", "server; extra == 'never'"])
    write_wheel(folder, "torchaudio", "2.9")
    write_wheel(folder, "server", "1.5", ["reload>=0.5; extra == 'standard'", "tray; sys_platform == 'win32'"])
    write_wheel(folder, "server", "1.6")
    write_wheel(folder, "reload", "0.9", [f"backport; python_full_version < '{PYTHON}.3'"])
    write_wheel(folder, "backport", "3.0")
    write_wheel(folder, "shared_lib", "1.1")
    write_wheel(folder, "shared_lib", "1.2")
    write_wheel(folder, "pytest", "9.0")
    write_wheel(folder, "pip", INSTALLER.partition("==")[2])
    return folder


def write_project(folder):
    (folder / "rack").mkdir(parents=True)
    (folder / "rack/__init__.py").write_text("")
    (folder / "requirements.lock").write_text(LOCK)
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "rack"\nversion = "0.1.0"\n'
        'dependencies = ["torch==2.0.0", "silero", "server[standard]>=1"]\n'
    )
    return folder


def only_from(monkeypatch, market):
    """Let pip look nowhere else."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(market))


@pytest.fixture(scope="module")
def first_build(tmp_path_factory):
    """One build from nothing, which the tests of what is in a release look at and copy, and never change."""
    room = tmp_path_factory.mktemp("release")
    with pytest.MonkeyPatch.context() as monkeypatch:
        only_from(monkeypatch, fill(room / "market"))
        return build_release(write_project(room / "project"), room / "dist")


@pytest.fixture
def market(tmp_path, monkeypatch):
    folder = fill(tmp_path / "market")
    only_from(monkeypatch, folder)
    return folder


@pytest.fixture
def project(tmp_path, first_build):
    """A project whose wheels were downloaded before."""
    folder = write_project(tmp_path / "project")
    shutil.copytree(first_build.folder.parents[1] / "project/.cache", folder / ".cache")
    return folder


@pytest.fixture
def build(project, market, tmp_path):
    def run(**options):
        return build_release(project, tmp_path / "dist", **options)

    return run


@pytest.fixture
def release(first_build, tmp_path):
    """The folder of a release that a test may harm."""
    return shutil.copytree(first_build.folder, tmp_path / "dist" / first_build.folder.name)


def install(folder, into):
    command = [sys.executable, "-m", "pip", "install", "--no-index", f"--find-links={folder}", "--no-deps"]
    command += ["--require-hashes", f"--requirement={folder}/requirements.txt", f"--target={into}"]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def wheels(folder):
    return sorted("-".join(path.name.split("-")[:2]) for path in folder.glob("*.whl"))


def test_a_release_has_what_runs_at_the_locked_versions_and_no_development_tool(first_build):
    assert wheels(first_build.folder) == [
        "backport-3.0",
        INSTALLER.replace("==", "-"),
        "rack-0.1.0",
        "reload-0.9",
        "server-1.5",
        "shared_lib-1.1",
        "silero-6.2.3",
        "torch-2.0.0+cpu",
    ]


def test_a_release_says_what_it_is(first_build):
    release = read_release(first_build.folder)
    assert release.version == first_build.folder.name
    assert release.version.startswith("0.1.0-")
    assert (release.python, release.torch, release.cuda) == (PYTHON, "2.0.0+cpu", None)
    assert release.installer.startswith("pip-")
    assert release.wheels == 8
    assert release.unlocked == ("backport==3.0",)


def test_pip_installs_exactly_the_release_without_an_index(first_build, tmp_path):
    assert install(first_build.folder, tmp_path / "site").returncode == 0
    installed = {path.name.partition("-")[0] for path in (tmp_path / "site").glob("*.dist-info")}
    assert installed == {"backport", "rack", "reload", "server", "shared_lib", "silero", "torch"}


def test_a_wheel_that_was_exchanged_is_not_installed(release, tmp_path):
    (release / "server-1.5-py3-none-any.whl").unlink()
    write_wheel(release, "server", "1.5", files={"server/evil.py": ""})
    done = install(release, tmp_path / "site")
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert not (tmp_path / "site").exists()


def test_the_same_sources_give_the_same_release_and_download_nothing(build, market):
    first = build()
    shutil.rmtree(market)
    second = build()
    assert second.reused
    assert (second.folder, second.release) == (first.folder, first.release)


def test_the_same_sources_give_the_same_version_in_another_place(first_build, build):
    assert build().release.version == first_build.release.version


def test_a_change_in_the_package_is_another_release_and_the_latest(build, project, tmp_path):
    first = build()
    (project / "rack/new.py").write_text("x = 1\n")
    second = build()
    out = tmp_path / "dist"
    assert {release.version for release in list_releases(out)} == {first.release.version, second.release.version}
    assert first.release.version != second.release.version
    assert find_release(out) == second.folder == (out / f"latest-py{PYTHON}").resolve()
    assert find_release(out, first.release.version) == first.folder
    # Both are the same files where they are the same, and so is the store's.
    name = "silero-6.2.3-py3-none-any.whl"
    assert (first.folder / name).samefile(second.folder / name)


def test_a_whole_release_verifies(first_build):
    assert verify_release(first_build.folder) == []


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda folder: (folder / "server-1.5-py3-none-any.whl").unlink(), "server-1.5-py3-none-any.whl is missing"),
        (lambda folder: (folder / "requirements.txt").write_text(""), "requirements.txt has changed"),
        (
            lambda folder: (folder / "evil-1.0-py3-none-any.whl").write_text(""),
            "evil-1.0-py3-none-any.whl doesn't",
        ),
        (lambda folder: (folder / "SHA256SUMS").write_text(""), "SHA256SUMS is not the one that"),
        (lambda folder: (folder / "SHA256SUMS").unlink(), "SHA256SUMS can't be read"),
    ],
)
def test_what_was_changed_in_a_release_is_named(release, harm, sentence):
    harm(release)
    assert any(sentence in fault for fault in verify_release(release))


def test_a_release_under_another_name_is_named(release):
    renamed = release.rename(release.with_name("0.1.0-000000000000"))
    assert verify_release(renamed) == [f"{renamed}/release.json says that it is of {release.name}"]


def test_a_damaged_release_is_built_anew_from_wheels_that_are_whole(build):
    folder = build().folder
    for path in folder.glob("server-*.whl"):
        path.write_bytes(b"damaged")  # the store's copy, too: it is the same file
    again = build()
    assert not again.reused
    assert again.folder == folder
    assert verify_release(folder) == []


def test_a_build_that_fails_leaves_the_latest_release_alone_and_nothing_half_done(build, project, tmp_path):
    first = build()
    (project / "requirements.lock").write_text(LOCK.replace("server==1.5", "server==7.7"))
    with pytest.raises(ReleaseError, match=rf"pip can't download server==7\.7 for Python {PYTHON} on manylinux"):
        build()
    assert find_release(tmp_path / "dist") == first.folder
    assert list((tmp_path / "dist").glob(".partial*")) == []


def test_what_a_killed_build_left_is_removed_by_the_next(build, tmp_path):
    left = tmp_path / "dist" / ".partial-killed"
    left.mkdir(parents=True)
    (left / "half.whl").write_text("")
    build()
    assert not left.exists()


def test_a_pin_that_a_wheel_does_not_accept_is_named(build, market, project):
    write_wheel(market, "silero", "7.0", ["shared-lib>=2"])
    (project / "requirements.lock").write_text(LOCK.replace("silero==6.2.3", "silero==7.0"))
    with pytest.raises(ReleaseError, match=r"silero==7\.0 requires shared-lib>=2, and 1\.1 is pinned"):
        build()


def test_one_build_of_torch_can_be_chosen_and_its_cuda_is_recorded(build, market):
    write_torch(market, "2.0.0", cuda="13.0")
    assert build().release.torch == "2.0.0+cpu"
    chosen = build(torch="2.0.0").release
    assert (chosen.torch, chosen.cuda) == ("2.0.0", "13.0")


def test_another_torch_than_the_locked_one_is_refused(build):
    with pytest.raises(ReleaseError, match=r"torch 2\.1\.0 is not the locked 2\.0\.0"):
        build(torch="2.1.0")


def test_wheels_of_another_source_are_another_release(build, market, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    write_torch(other, "2.0.0+cu130", cuda="13.0")
    first = build().release
    second = build(sources=Sources(find_links=(str(other),))).release
    assert (first.torch, second.torch) == ("2.0.0+cpu", "2.0.0+cu130")
    assert build().release == first


def test_hosts_with_another_python_get_that_pythons_wheels(build, market, tmp_path):
    write_torch(market, "2.0.0", tag="cp399-cp399-manylinux_2_28_x86_64")
    built = build(target=Target("3.99"))
    assert (built.release.python, built.release.torch) == ("3.99", "2.0.0")
    assert "torch-2.0.0-cp399-cp399-manylinux_2_28_x86_64.whl" in {path.name for path in built.folder.iterdir()}
    assert (tmp_path / "dist/latest-py3.99").resolve() == built.folder


def test_a_wheel_that_only_newer_hosts_can_install_is_not_taken(build, market, project):
    shutil.rmtree(project / ".cache")
    (market / f"torch-2.0.0+cpu-{TORCH_TAG}.whl").unlink()
    write_torch(market, "2.0.0+cpu", tag=f"{CPYTHON}-{CPYTHON}-manylinux_2_39_x86_64")
    with pytest.raises(ReleaseError, match=r"torch==2\.0\.0.*manylinux_2_35_x86_64"):
        build()
    assert build(target=Target(platform="manylinux_2_39_x86_64")).release.torch == "2.0.0+cpu"


@pytest.mark.parametrize(
    ("marker", "needed"),
    [
        ("python_full_version < '3.11.3'", True),  # Debian 12 has 3.11.2
        ("python_full_version >= '3.11.3'", True),
        ("python_version < '3.11'", False),
        ("platform_machine == 'aarch64'", True),
        ("sys_platform == 'win32'", False),
        ("extra == 'standard'", False),
    ],
)
def test_markers_are_the_hosts_and_not_this_machines(marker, needed):
    assert Target("3.11", "manylinux_2_35_aarch64").needs(Requirement(f"thing; {marker}")) is needed


@pytest.mark.parametrize(
    "target", [("3", "manylinux_2_35_x86_64"), ("3.10", "manylinux_2_35_x86_64"), ("3.11", "win32")]
)
def test_a_target_that_is_none_is_refused_with_what_to_write(target):
    with pytest.raises(ReleaseError, match="write "):
        Target(*target)


@pytest.mark.parametrize("line", ["torch", "torch>=2", "torch==two", "-e ."])
def test_a_lock_line_that_pins_nothing_is_named(tmp_path, line):
    (tmp_path / "lock").write_text(f"av==18\n{line}\n")
    with pytest.raises(ReleaseError, match=r"lock:2: .* is not name==version"):
        read_lock(tmp_path / "lock")


def test_a_missing_lock_is_named(tmp_path):
    with pytest.raises(ReleaseError, match=r"lock: No such file.*run this in the project's folder"):
        read_lock(tmp_path / "lock")


def test_the_command_prints_the_folder_alone_on_stdout_and_what_was_done_on_stderr(project, market, tmp_path):
    out = ["--out", str(tmp_path / "dist")]
    done = CliRunner().invoke(app, ["build", *out, "--project", str(project)])
    assert done.exit_code == 0, done.output
    folder = find_release(tmp_path / "dist")
    assert done.stdout == f"{folder}\n"
    assert "not in requirements.lock: backport==3.0" in done.stderr
    (row,) = CliRunner().invoke(app, ["list", *out]).stdout.splitlines()[1:]
    assert row.split()[:3] == [folder.name, PYTHON, "2.0.0+cpu"]
    assert row.endswith("latest")
    assert CliRunner().invoke(app, ["verify", *out]).stdout == f"{folder.name}: every file is as it was built\n"


def test_the_verify_command_fails_for_a_release_that_was_changed(release):
    (release / "requirements.txt").write_text("")
    done = CliRunner().invoke(app, ["verify", "--out", str(release.parent), release.name])
    assert done.exit_code == 1
    assert "can't be trusted" in done.stderr


def test_a_release_that_is_not_there_is_refused_with_those_that_are(release, tmp_path):
    with pytest.raises(ReleaseError, match=r"has no release latest \(it has: none\)"):
        find_release(tmp_path / "empty")
    with pytest.raises(ReleaseError, match=rf"has no release 9\.9 \(it has: {release.name}\)"):
        find_release(release.parent, "9.9")


def test_a_release_record_that_was_edited_wrongly_is_named(release):
    record = json.loads((release / "release.json").read_text())
    (release / "release.json").write_text(json.dumps({**record, "version": "../../etc"}))
    with pytest.raises(ReleaseError, match=r"release\.json: version is wrong"):
        read_release(release)

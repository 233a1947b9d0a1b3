"""The hosts' image: a Debian as an installer leaves it, made once and kept until its recipe changes."""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab import mirror
from lab.podman import Podman
from lab.trouble import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.commands import Commands
    from lab.room import Room

INGREDIENTS = Path(__file__).with_name("rootfs")
SUITES = ("bookworm", "trixie")
NAME = "localhost/babelrack-lab"


@dataclass(frozen=True)
class Image:
    """An image in a store of its own, which podman reads beside a lab's storage."""

    suite: str
    store: Path
    reference: str


def recipe(suite: str) -> str:
    """Twelve hex digits that change whenever the image would."""
    parts = [suite, mirror.sources(suite), mirror.settings(), "\n".join(mirror.own_certificates(""))]
    parts += [f"{file.name}\n{file.read_text()}" for file in sorted(INGREDIENTS.iterdir())]
    parts += [inspect.getsource(step) for step in (_make, _furnish)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def ensure(cache: Path, run: Path, suite: str, commands: Commands, room: Room, say: Callable[[str], None]) -> Image:
    """The image of a Debian release, made if it isn't there; raises `LabError` when that fails.

    `cache` is where images are kept, `run` a short path for what podman needs while it runs.
    """
    if suite not in SUITES:
        raise LabError(f"suite {suite!r} is not one that hosts are made of; choose {' or '.join(SUITES)}")
    digest = recipe(suite)
    with _locked(cache / f"image-{suite}.lock", lambda: say(f"waiting for another program that makes {suite}")):
        driver = Podman(commands, room, cache / "images" / "probe", run / "i").driver
        store = cache / "images" / f"{suite}-{digest}-{driver}"
        image = Image(suite, store, f"{NAME}:{suite}-{digest}")
        if not (store / "ready").exists():
            say(f"making the image {suite} (once; about a minute)")
            for old in cache.glob(f"making-{suite}-*"):
                shutil.rmtree(old, ignore_errors=True)
            shutil.rmtree(store, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=f"making-{suite}-", dir=cache) as folder:
                _make(Path(folder).resolve(), run / "i", image, commands, room)
            (store / "ready").touch()
    return image


def unused(cache: Path, used: set[str]) -> list[Path]:
    """Image stores that no host in `used` stands on and that no recipe of today makes."""
    today = {f"{suite}-{recipe(suite)}" for suite in SUITES}
    return [
        store
        for store in (cache / "images").glob("*-*-*")
        if str(store) not in used and store.name.rpartition("-")[0] not in today
    ]


def _make(folder: Path, run: Path, image: Image, commands: Commands, room: Room) -> None:
    root = folder / "root"
    apt = folder / "apt.conf"
    apt.write_text(mirror.settings() + 'Apt::Install-Recommends "false";\n')
    commands(
        *room.enter, "mmdebstrap", "--mode=root", "--variant=apt", "--format=directory",
        f"--include={','.join(_words('packages'))}", f"--aptopt={apt}",
        "--dpkgopt=force-unsafe-io", "--skip=cleanup/apt/lists", image.suite, root, "-",
        stdin=mirror.sources(image.suite), variables={"TMPDIR": str(folder), "DEBIAN_FRONTEND": "noninteractive"},
    )  # fmt: skip
    _furnish(root)
    for script in (
        "update-ca-certificates --fresh",
        f"systemctl mask {' '.join(_words('masked'))}",
        "systemctl set-default multi-user.target",
        "rm -f /etc/ssh/ssh_host_* /var/cache/apt/archives/*.deb /etc/hostname; : >/etc/machine-id",
        "ldconfig; touch /etc/.updated /var/.updated",  # or systemd would rebuild caches at each first boot
    ):
        commands(*room.enter, "chroot", root, "sh", "-ec", script)
    podman = Podman(commands, room, image.store, run)
    archive = folder / "root.tar"
    commands(*room.enter, "tar", "--numeric-owner", "--one-file-system", "-C", root, "-cf", archive, ".")
    podman("import", "--change", 'CMD ["/usr/local/sbin/lab-init"]', archive, image.reference, timeout=300)


def _furnish(root: Path) -> None:
    public = (root / "etc/ssl/certs/ca-certificates.crt").read_text()
    for number, certificate in enumerate(mirror.own_certificates(public)):
        (root / f"usr/local/share/ca-certificates/machine-{number}.crt").write_text(certificate + "\n")
    for name, target, mode in (
        ("lab-init", "usr/local/sbin/lab-init", 0o755),
        ("share-packages", "usr/local/sbin/lab-share-packages", 0o755),
        ("dpkg.cfg", "etc/dpkg/dpkg.cfg.d/lab", 0o644),
        ("sshd.conf", "etc/ssh/sshd_config.d/10-lab.conf", 0o644),
    ):
        file = root / target
        file.write_bytes((INGREDIENTS / name).read_bytes())
        file.chmod(mode)
    (root / "etc/apt/apt.conf.d/90lab").write_text(
        mirror.settings()
        + 'APT::Keep-Downloaded-Packages "true";\n'
        + 'DPkg::Pre-Install-Pkgs { "/usr/local/sbin/lab-share-packages"; };\n'
    )
    (root / "etc/ssh/lab").mkdir(exist_ok=True)


def _words(name: str) -> list[str]:
    lines = (INGREDIENTS / name).read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


@contextmanager
def _locked(file: Path, waiting: Callable[[], None]) -> Iterator[None]:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield

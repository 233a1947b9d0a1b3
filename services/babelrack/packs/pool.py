"""A site's pool: the machines that its packs may run on, as `inventories/<site>/hosts.yaml` lists them."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from babelrack.packs.document import read_document
from babelrack.packs.faults import Fault, PackError, schema_faults, shown
from babelrack.packs.pack import STRICT, Port
from babelrack.packs.site import HostName, project_root

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import ModelWrapValidatorHandler

PoolName = Annotated[
    str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", description="A host's name within the pool.")
]


def _check_plain(text: str) -> str:
    if not text.strip() or any(ord(sign) < 32 or ord(sign) == 127 for sign in text):
        raise ValueError(f"is {shown(text)}; write one line of text")
    return text


Line = Annotated[str, Field(max_length=200), AfterValidator(_check_plain)]


class Ssh(BaseModel):
    """How the control machine reaches a host."""

    model_config = STRICT

    user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] = Field(
        default="root", description="The account on the hosts; not root needs sudo without a password."
    )
    port: Port = Field(default=22, description="The port of the SSH server.")
    private_key: Line | None = Field(
        default=None, description="The private key's file, from the project's root; SSH's own choice when left out."
    )
    known_hosts: Line | None = Field(
        default=None,
        description="The file of the hosts' keys, from the project's root; SSH's own when left out. "
        "A host whose key is not there is refused.",
    )


class PoolHost(BaseModel):
    """One machine of the pool, as its owner describes it."""

    model_config = STRICT

    address: HostName = Field(description="The address that the control machine and the other hosts reach it at.")
    gpus: int = Field(default=0, ge=0, le=16, description="How many GPUs it has.")
    gpu_model: Line | None = Field(default=None, description="The GPUs' model, such as NVIDIA L4.")
    gpu_memory_gib: int = Field(default=0, ge=0, le=1024, description="Memory of each GPU, in GiB.")
    ram_gib: int = Field(ge=1, le=65536, description="Main memory, in GiB.")
    disk_gib: int = Field(ge=1, le=1048576, description="Disk for checkpoints and logs, in GiB.")
    places: int = Field(
        default=1,
        ge=1,
        le=16,
        description="How many packs it may carry; they share its GPUs evenly and need ports of their own.",
    )
    rack: Line | None = Field(default=None, description="Where it stands.")
    labels: dict[PoolName, Line] = Field(default={}, description="Words of your own to choose hosts by.")
    ssh_port: Port | None = Field(default=None, description="Its own SSH port, where it differs from ssh.port.")

    @model_validator(mode="after")
    def _gpus_fit(self) -> PoolHost:
        if self.gpus % self.places:
            raise ValueError(f"shares {self.gpus} GPUs among {self.places} places; choose places that divide the GPUs")
        return self

    @property
    def gpus_per_place(self) -> int:
        """GPUs that one pack on this host has."""
        return self.gpus // self.places


class PoolFile(BaseModel):
    """A pool file as it is written; `load_pool` makes a `Pool` of it."""

    model_config = STRICT

    ssh: Ssh = Field(default=Ssh(), description="How every host is reached.")
    hosts: dict[PoolName, PoolHost] = Field(min_length=1, description="The machines, by name.")

    @model_validator(mode="wrap")
    @classmethod
    def _raise_pack_error(cls, data: Any, handler: ModelWrapValidatorHandler[PoolFile]) -> PoolFile:
        try:
            return handler(data)
        except ValidationError as error:
            raise PackError(schema_faults(cls, error)) from None


@dataclass(frozen=True)
class Pool:
    """The machines of a site; `load_pool` makes it."""

    file: Path
    root: Path
    """Where relative paths of the file start."""
    ssh: Ssh
    hosts: Mapping[str, PoolHost]
    """In the file's order, which is the order in which they are taken."""

    def path(self, written: str | None) -> Path | None:
        """The absolute path of a file that the pool names, `~` expanded."""
        return None if written is None else self.root / Path(written).expanduser()


def load_pool(path: Path) -> Pool:
    """The pool in a file; raises `PackError` with every fault of it."""
    try:
        written = _pool_file(path)
    except PackError as error:
        raise error.in_file(str(path)) from None
    return Pool(file=path, root=project_root(path), ssh=written.ssh, hosts=written.hosts)


def _pool_file(path: Path) -> PoolFile:
    data = read_document(path)
    if not isinstance(data, dict):
        raise PackError([Fault("", "the file holds no mapping; start with hosts: and a name for each machine")])
    written = PoolFile.model_validate(data)
    if faults := [*_address_faults(written)]:
        raise PackError(faults)
    return written


def _address_faults(written: PoolFile) -> Iterator[Fault]:
    taken: dict[tuple[str, int], str] = {}
    for name, host in written.hosts.items():
        try:
            address = str(ipaddress.ip_address(host.address))
        except ValueError:
            address = host.address.lower()
        other = taken.setdefault((address, host.ssh_port or written.ssh.port), name)
        if other != name:
            yield Fault(f"hosts.{name}.address", f"is {shown(host.address)}, as that of {other}; list a machine once")

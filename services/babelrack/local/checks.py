"""What must be right before a rack is started; each fault in a sentence that names it and the fix."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from babelrack.local import RackError
from babelrack.local.identity import port_holder

if TYPE_CHECKING:
    from babelrack.local.layout import Layout
    from babelrack.local.service import Port
    from babelrack.packs.site import Site


def check(layout: Layout) -> None:
    """Look whether checkpoints are there and ports are free.

    Raises:
        RackError: with a line for each fault.
    """
    faults = [*_checkpoint_faults(layout.site), *_port_faults(layout)]
    if faults:
        raise RackError("\n".join(faults))


def _checkpoint_faults(site: Site) -> list[str]:
    faults = []
    for name, deployment in site.deployments.items():
        for checkpoint in deployment.pack.checkpoints:
            parts = urlsplit(site.source(checkpoint)[0])
            path = Path(unquote(parts.path))
            if parts.scheme == "file" and not path.exists():
                faults.append(f"Checkpoint {checkpoint.name} of the pack {name} is not at {path}; run `make setup`.")
    return list(dict.fromkeys(faults))


def _port_faults(layout: Layout) -> list[str]:
    faults = []
    wanted: dict[Port, str] = {}
    for service in layout.services:
        for port in service.ports:
            if port in wanted:
                faults.append(
                    f"Port {port.number} is needed by {wanted[port]} and by {service.name}; "
                    "give one of them another in the site file."
                )
            elif not _is_free(port):
                holder = port_holder(port.number) or "another process"
                faults.append(
                    f"Port {port.number} on {port.host}, which {service.name} needs, is taken by {holder}; "
                    "stop that, or change the port in the site file."
                )
            wanted[port] = service.name
    return faults


def _is_free(port: Port) -> bool:
    family = socket.AF_INET6 if ":" in port.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the servers do: a port whose last connections are only winding down is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((port.host, port.number))
        except OSError:
            return False
    return True

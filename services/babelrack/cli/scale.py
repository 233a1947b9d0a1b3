"""`babelrack scale`: give a pack more hosts or fewer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from babelrack.cli.apply import claim
from babelrack.cli.fleet import (
    SITE,
    PackArgument,
    SiteOption,
    YesOption,
    alone,
    load_fleet,
    roll_limit,
    run_playbook,
    say,
)
from babelrack.fleet import FleetError
from babelrack.fleet.replicas import SHARED
from babelrack.fleet.site_file import set_replicas

if TYPE_CHECKING:
    from babelrack.cli.fleet import FleetSite
    from babelrack.fleet.site_file import Edit
    from babelrack.fleet.terraform import Root


def scale(
    pack: PackArgument,
    replicas: Annotated[int, typer.Argument(min=1, max=1000, help="How many hosts the pack is to have.")],
    site: SiteOption = SITE,
    yes: YesOption = False,  # noqa: FBT002, RUF100
) -> None:
    """Write another number of replicas into the site file, then do as `apply`.

    A replica that goes is drained at the gateway and stopped before its host is given back; it is the one with the
    highest number. When nobody agrees, the site file is as it was. Exit codes are those of `apply`.
    """
    if pack == SHARED:
        raise FleetError("The shared host is one; only packs can be scaled.")
    fleet = load_fleet(site, pack, "site.yml", "remove.yml")
    with alone(fleet, pack):
        edit = set_replicas(site, pack, replicas)
        say(edit.diff().rstrip("\n") if not edit.empty else f"{site} asks for {replicas} replicas of {pack} already.")
        root = fleet.root(pack)
        root.prepare()
        _claim(fleet, pack, root, edit, yes=yes)
        run_playbook(fleet, "site.yml", f"apply {pack}", roll_limit(pack), again=f"babelrack apply {pack}")


def _claim(fleet: FleetSite, pack: str, root: Root, edit: Edit, *, yes: bool) -> None:
    """Claim with the file edited; the file goes back to what it was unless Terraform had its turn."""
    if not edit.empty:
        edit.write()
    try:
        claim(load_fleet(fleet.file, pack), pack, root, yes=yes)
    except BaseException:
        if not edit.empty and not root.applied:
            edit.undo()
        raise

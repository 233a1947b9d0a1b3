"""`babelrack apply`: claim what a pack needs, then roll it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from babelrack.cli.fleet import (
    SITE,
    FleetSite,
    PackArgument,
    SiteOption,
    YesOption,
    agree,
    alone,
    colour,
    load_fleet,
    names,
    released,
    replicas_of,
    roll_limit,
    run_playbook,
    say,
    show_plan,
)
from babelrack.fleet.replicas import SHARED, Replica

if TYPE_CHECKING:
    from collections.abc import Sequence

    from babelrack.fleet.terraform import Root


def apply(
    pack: PackArgument,
    site: SiteOption = SITE,
    yes: YesOption = False,  # noqa: FBT002, RUF100
    plan: Annotated[bool, typer.Option("--plan", help="Show Terraform's plan and change nothing.")] = False,
) -> None:
    """Claim hosts for a pack (Terraform), then roll it (Ansible): its own hosts, the shared host, the gateway.

    `apply shared` does the shared host and the gateway alone. A second apply changes nothing. Exit code 1 when
    something failed or nobody agreed, 130 after Ctrl-C.
    """
    fleet = load_fleet(site, pack, "site.yml", "remove.yml")
    with alone(fleet, pack):
        root = fleet.root(pack)
        root.prepare()
        if plan:
            with root.plan(colour=colour()) as planned:
                show_plan(planned, f"{pack} at {fleet.site.name}")
            return
        claim(fleet, pack, root, yes=yes)
        run_playbook(fleet, "site.yml", f"apply {pack}", roll_limit(pack), again=f"babelrack apply {pack}")


def claim(fleet: FleetSite, pack: str, root: Root, *, yes: bool) -> None:
    """Plan, show, ask, take off what gives its place back, apply.

    Raises:
        FleetError: when Terraform fails.
        typer.Exit: when nobody agreed, or a replica couldn't be taken off its machine.
    """
    before = () if pack == SHARED else replicas_of(root)
    with root.plan(colour=colour()) as planned:
        if planned.empty:
            say(f"{pack} at {fleet.site.name}: Terraform has nothing to change.")
            return
        show_plan(planned, f"{pack} at {fleet.site.name}")
        going = released(planned, before)
        if going:
            say(f"\nBefore that, {names(pack, going)} is drained at the gateway and stopped.")
        agree(f"Apply this to {pack} at {fleet.site.name}?", yes=yes)
        take_off(fleet, pack, going)
        root.apply(planned)


def take_off(fleet: FleetSite, pack: str, going: Sequence[Replica]) -> None:
    """Take replicas out of the gateway's map, then stop and remove them on their machines.

    Raises:
        typer.Exit: when that failed somewhere; their places are still claimed then.
    """
    if going:
        indices = ",".join(str(replica.index) for replica in going)
        title, again = f"remove {pack}", f"babelrack apply {pack}"
        run_playbook(fleet, "remove.yml", title, again=again, remove_pack=pack, remove_replicas=indices)

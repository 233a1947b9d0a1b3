"""`babelrack destroy`: take a pack off a fleet and give its hosts back."""

from __future__ import annotations

import sys

import typer

from babelrack.cli.fleet import (
    SITE,
    PackArgument,
    SiteOption,
    YesOption,
    alone,
    colour,
    load_fleet,
    names,
    replicas_of,
    run_playbook,
    say,
    show_plan,
)
from babelrack.fleet import FleetError
from babelrack.fleet.replicas import SHARED


def destroy(pack: PackArgument, site: SiteOption = SITE, yes: YesOption = False) -> None:  # noqa: FBT002, RUF100
    """Take a pack out of the gateway's map, stop and remove it on its hosts, then give the hosts back to the pool.

    Asks for the pack's name, unless --yes. Other packs are not touched. Exit code 1 when something failed or nobody
    agreed; a second run goes on where the first one stopped.
    """
    if pack == SHARED:
        raise FleetError(
            "The shared host serves every pack: destroy the packs first, then run `terraform destroy` in "
            "terraform/shared yourself."
        )
    fleet = load_fleet(site, pack, "site.yml", "remove.yml")
    with alone(fleet, pack):
        root = fleet.root(pack)
        root.prepare()
        replicas = replicas_of(root)
        with root.plan(destroy=True, colour=colour()) as planned:
            if planned.empty:
                # An earlier run may have come so far and no further.
                say(f"{pack} has nothing at {fleet.site.name}; what remembers it there is told.")
            else:
                show_plan(planned, f"{pack} at {fleet.site.name}")
            if replicas:
                say(f"\nBefore that, {names(pack, replicas)} leaves the gateway's map and is stopped.")
            _agree_by_name(pack, fleet.site.name, yes=yes)
            if replicas:
                again = f"babelrack destroy {pack}"
                run_playbook(fleet, "remove.yml", f"remove {pack}", again=again, remove_pack=pack)
            if not planned.empty:
                root.apply(planned)
        # The shared host's firewall and monitoring still know the replicas that are gone.
        run_playbook(fleet, "site.yml", f"forget {pack}", ["shared", "gateway"], again=f"babelrack destroy {pack}")
        say(f"{pack} is gone from {fleet.site.name}; take it out of {site} if it isn't to come back.")


def _agree_by_name(pack: str, site: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise FleetError("Nobody is here to agree; run it on a terminal, or with --yes.")
    if typer.prompt(f"\nType the pack's name to destroy it at {site}", default="", show_default=False) != pack:
        say("Nothing was changed.")
        raise typer.Exit(1)

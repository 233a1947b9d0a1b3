"""`babelrack rollback`: a pack goes back to the release that it ran before."""

from __future__ import annotations

from babelrack.cli.fleet import (
    SITE,
    PackArgument,
    SiteOption,
    YesOption,
    agree,
    alone,
    load_fleet,
    names,
    replicas_of,
    run_playbook,
    say,
)
from babelrack.fleet import FleetError
from babelrack.fleet.replicas import SHARED


def rollback(pack: PackArgument, site: SiteOption = SITE, yes: YesOption = False) -> None:  # noqa: FBT002, RUF100
    """Let every replica of a pack run its previous release again, one after the other, drained and gated by health.

    Claims nothing and changes no file here: the next `apply` rolls the newest release again.
    """
    if pack == SHARED:
        raise FleetError("Only packs are rolled back; the shared host's parts come from `babelrack apply shared`.")
    fleet = load_fleet(site, pack, "rollback.yml")
    with alone(fleet, pack):
        replicas = replicas_of(fleet.root(pack))
        if not replicas:
            raise FleetError(f"{pack} has no replica at {fleet.site.name}; there is nothing to roll back.")
        say(f"{names(pack, replicas)} goes back to the previous release.")
        agree(f"Roll {pack} back at {fleet.site.name}?", yes=yes)
        run_playbook(fleet, "rollback.yml", f"roll back {pack}", [f"pack_{pack}"], again=f"babelrack rollback {pack}")
        say(f"The next apply rolls it forward again; to stay, set release_version in group_vars/pack_{pack}.yml.")

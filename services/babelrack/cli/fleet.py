"""What commands on a fleet share: the site that they mean, its lock, a plan that is shown and agreed to, a roll."""

from __future__ import annotations

import contextlib
import fcntl
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from babelrack.cli.roll_display import RollDisplay
from babelrack.fleet import FleetError
from babelrack.fleet.playbook import Playbook
from babelrack.fleet.replicas import CLAIM, SHARED, Replica, inventory_name, parse_replicas, root_of
from babelrack.packs.faults import nearest, shown
from babelrack.packs.pool import load_pool
from babelrack.packs.site import load_site

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from babelrack.fleet.playbook import RunResult
    from babelrack.fleet.terraform import Plan, Root
    from babelrack.packs.pool import Pool
    from babelrack.packs.site import Site

SITE = Path("inventories/lab/site.yaml")
_INTERRUPTED = 130

SiteOption = Annotated[Path, typer.Option("--site", help="The site file.", metavar="FILE")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]
PackArgument = Annotated[str, typer.Argument(help="A pack of the site, by name.", show_default=False)]


@dataclass(frozen=True)
class FleetSite:
    """A site with a fleet, and the files that belong to it."""

    site: Site
    pool: Pool
    file: Path

    @property
    def folder(self) -> Path:
        """`inventories/<site>`."""
        return self.file.absolute().parent

    @property
    def state(self) -> Path:
        """Where this project keeps what its commands leave behind."""
        return self.site.root / ".babelrack"

    def root(self, name: str) -> Root:
        """The Terraform root of a pack or of `shared`."""
        return root_of(self.site.root, name, self.site.name)

    def playbook(self, name: str, limit: Sequence[str] = (), **variables: str) -> Playbook:
        """A playbook of this project for this site; `limit` leaves some of its hosts."""
        return Playbook(self.site.root, name, self.folder / "babelrack.yml", tuple(limit), variables)


def load_fleet(file: Path, pack: str, *playbooks: str) -> FleetSite:
    """The site in a file, which must be a fleet and run the pack (or `shared`); the playbooks must be there.

    Raises:
        FleetError, PackError: with what is wrong.
    """
    site = load_site(file)
    if site.fleet is None:
        raise FleetError(
            f"The site {site.name} is this machine alone: start its packs with `babelrack up --site {file}`, or give "
            "it `fleet: {shared: …, gateway: …}` and a hosts.yaml."
        )
    if pack != SHARED and pack not in site.deployments:
        known = ", ".join(site.deployments)
        meant = nearest(pack, site.deployments)
        fix = f"did you mean {meant!r}?" if meant else f"its packs are {known}."
        raise FleetError(f"The site {site.name} has no pack {shown(pack)}; {fix}")
    fleet = FleetSite(site, load_pool(file.with_name("hosts.yaml")), file)
    for playbook in playbooks:
        fleet.playbook(playbook).check()
    return fleet


@contextlib.contextmanager
def alone(fleet: FleetSite, name: str) -> Iterator[None]:
    """Be the only command of this project that changes a pack at this site.

    Raises:
        FleetError: when another one is.
    """
    folder = fleet.state / "locks"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / f"{fleet.site.name}-{name}").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FleetError(
                f"Another command is changing {name} at {fleet.site.name}; wait until it has finished."
            ) from None
        yield


def say(sentence: str) -> None:
    """Print one line, between what Terraform and Ansible print."""
    Console(highlight=False, soft_wrap=True).print(Text(sentence))
    sys.stdout.flush()


def show_plan(plan: Plan, title: str) -> None:
    """Print a plan as Terraform shows it."""
    say(f"\n{title}: Terraform's plan")
    typer.echo(plan.text, color=True)


def agree(question: str, *, yes: bool) -> None:
    """Ask, unless `yes`.

    Raises:
        typer.Exit: with exit code 1 when the answer is no, or nobody is there to give one.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise FleetError("Nobody is here to agree; run it on a terminal, or with --yes.")
    if not typer.confirm(f"\n{question}"):
        say("Nothing was changed.")
        raise typer.Exit(1)


def colour() -> bool:
    """Whether stdout is a terminal that shows colours."""
    return Console().is_terminal


def replicas_of(root: Root) -> tuple[Replica, ...]:
    """The replicas that a pack has now."""
    return parse_replicas(root.outputs(), f"the state of {root.folder.name} at {root.workspace}")


def released(plan: Plan, replicas: Sequence[Replica]) -> list[Replica]:
    """The replicas whose places a plan gives back: they must stop serving before it is applied."""
    indices = set(plan.deleted(CLAIM))
    return [replica for replica in replicas if str(replica.index) in indices]


def run_playbook(
    fleet: FleetSite, name: str, title: str, limit: Sequence[str] = (), *, again: str, **variables: str
) -> RunResult:
    """Run a playbook with its progress, and print how it ended on each host; `again` is the command that goes on.

    Raises:
        typer.Exit: with exit code 1 when it failed somewhere, 130 when it was interrupted.
    """
    options = [f" --limit '{':'.join(limit)}'"] if limit else []
    options += [f" -e {variable}={value}" for variable, value in variables.items()]
    say(f"\n{title} at {fleet.site.name}: ansible-playbook {name}{''.join(options)}")
    with RollDisplay() as display:
        result = fleet.playbook(name, limit, **variables).run(
            title.replace(" ", "-"), fleet.state / "ansible", display.step
        )
    display.summary(result)
    if result.interrupted:
        say(f"Stopped. `{again}` goes on from here; a replica that is drained stays so until then.")
        raise typer.Exit(_INTERRUPTED)
    if not result.good:
        raise typer.Exit(1)
    return result


def roll_limit(pack: str) -> list[str]:
    """The hosts of `site.yml` for one pack: its replicas and machines, and those who must know them.

    The shared host's firewall and monitoring know every replica, and so does the gateway's map.
    """
    if pack == SHARED:
        return ["shared", "gateway"]
    return [f"pack_{pack}", f"machines_{pack}", "shared", "gateway"]


def names(pack: str, replicas: Sequence[Replica]) -> str:
    """Replicas as a sentence has them: `indic-1 on rack1-gpu2`."""
    return ", ".join(f"{inventory_name(pack, replica.index)} on {replica.host}" for replica in replicas)

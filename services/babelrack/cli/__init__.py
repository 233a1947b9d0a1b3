"""`babelrack`: the operator's hand. Each command's module is imported only when that command runs."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Command:
    """Where a command is: `babelrack.cli.<module>`, the name of its function or sub-app there, and one line of help."""

    module: str
    attribute: str
    help: str
    panel: str


_RACK, _FLEET, _PACKS, _OPERATIONS = "Run", "Fleet", "Packs", "Licence, keys, checkpoints"
COMMANDS = {
    "up": Command("up", "up", "Start packs on this machine, each with its own servers, behind nginx.", _RACK),
    "down": Command("down", "down", "Stop what `up` started.", _RACK),
    "status": Command("status", "status", "How every deployment is: health, checkpoints, load.", _RACK),
    "transcribe": Command("transcribe", "transcribe", "Transcribe audio files through the gateway.", _RACK),
    "apply": Command("apply", "apply", "Claim hosts for a pack, then roll it there.", _FLEET),
    "scale": Command("scale", "scale", "Give a pack more hosts or fewer.", _FLEET),
    "rollback": Command("rollback", "rollback", "Let a pack run its previous release again.", _FLEET),
    "destroy": Command("destroy", "destroy", "Take a pack off the fleet and give its hosts back.", _FLEET),
    "doctor": Command("doctor", "doctor", "Find what is wrong with a live site, each with its fix.", _FLEET),
    "packs": Command("packs", "app", "Check and show pack files.", _PACKS),
    "routes": Command("routes", "routes", "Which pack serves which language, for nginx and for clients.", _PACKS),
    "new": Command("new", "app", "Make files to start from: a pack.", _PACKS),
    "provider": Command("provider", "app", "Install the Terraform provider.", _OPERATIONS),
    "release": Command("release", "app", "Build, list and verify what hosts install.", _OPERATIONS),
    "checkpoints": Command("checkpoints", "app", "Fetch, verify and show checkpoints.", _OPERATIONS),
    "canary": Command(
        "canary", "canary", "Ask one API server for a clip with known text, as a roll does.", _OPERATIONS
    ),
    "license": Command("license", "app", "Issue and inspect licences, show usage.", _OPERATIONS),
    "keys": Command("keys", "app", "Add, list and revoke client keys.", _OPERATIONS),
}


class CommandGroup(TyperGroup):
    """Commands that are imported when they run; errors in one sentence unless `--debug` asks for the traceback."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Put the real command in the place of its line of help."""
        if args and args[0] in COMMANDS:
            self.commands[args[0]] = _load(args[0])
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what it raises becomes a sentence on stderr and exit code 1."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.TyperException, BrokenPipeError):
            raise
        except Exception as error:
            if ctx.params.get("_debug"):
                raise
            sys.stderr.write(f"babelrack: {_sentence(error)}\n")
            raise typer.Exit(1) from None


app = typer.Typer(
    name="babelrack",
    cls=CommandGroup,
    help="One rack, many tongues: speech-to-text packs on hosts that you own.",
    add_completion=False,
    pretty_exceptions_enable=False,  # they print local variables, and a key may be one
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001, RUF100  (typer calls it with the flag's value)
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415  (40 ms that only --version needs)

        typer.echo(f"babelrack {version('babelrack')}")
        raise typer.Exit


@app.callback(no_args_is_help=True)
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    _debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    pass


def main() -> None:
    """The console script: exit code 0, or 1 when something went wrong, or 2 when the command line was."""
    try:
        app(prog_name="babelrack")
    except BrokenPipeError:
        # The reader of our output, such as `head`, has enough; the interpreter's last flush must not complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _load(name: str) -> Any:
    command = COMMANDS[name]
    try:
        target = getattr(import_module(f"babelrack.cli.{command.module}"), command.attribute)
    except ImportError as error:
        raise CommandMissingError(f"`{name}` can't be loaded ({error}); run `make setup`.") from error
    if isinstance(target, typer.Typer):
        return get_command(target)
    alone = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})
    alone.command(name=name)(target)
    return get_command(alone)


class CommandMissingError(Exception):
    """A command's module can't be imported."""


def _sentence(error: Exception) -> str:
    # This package's own errors say what happened and what to do; of any other only the kind is sure.
    text = " ".join(str(error).split()) if type(error).__module__.partition(".")[0] != "babelrack" else str(error)
    if type(error).__module__.partition(".")[0] == "babelrack":
        return text
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"unexpected {type(error).__name__}: {text or 'no message'}; `babelrack --debug …` shows where."


def _placeholder() -> Callable[[], None]:
    def run() -> None:
        """Never called: `resolve_command` puts the real command in its place."""

    return run


for _name, _command in COMMANDS.items():
    app.command(_name, help=_command.help, rich_help_panel=_command.panel)(_placeholder())

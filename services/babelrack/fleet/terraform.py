"""One Terraform root at one site: plan it, show the plan, apply exactly that plan, read its outputs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from python_terraform import IsFlagged, Terraform

from babelrack.fleet import FleetError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Mapping, Sequence

_ENVIRONMENT: Final = {"TF_IN_AUTOMATION": "1", "TF_INPUT": "0", "CHECKPOINT_DISABLE": "1"}
_FRAME: Final = re.compile(r"^[│╷╵ ]+|\x1b\[[0-9;]*m", re.MULTILINE)
_spawning = threading.Lock()


@dataclass(frozen=True)
class Change:
    """What a plan does to one resource: `actions` are Terraform's words, such as `create` or `delete`."""

    address: str
    type: str
    index: str | None
    """The key of `for_each` or the number of `count`; a claim's is its replica's."""
    actions: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """A plan in a file; applying it does what it says or fails."""

    file: Path
    text: str
    """As `terraform show` prints it."""
    changes: tuple[Change, ...]
    empty: bool
    """Whether neither a resource nor an output changes."""

    def deleted(self, resource_type: str) -> tuple[str, ...]:
        """The indices of the resources of a type that this plan deletes, or deletes and makes anew."""
        return tuple(
            change.index
            for change in self.changes
            if change.type == resource_type and change.index is not None and "delete" in change.actions
        )


class Root:
    """A root module's folder, and the workspace in it that is named for the site.

    `configuration` is a file for Terraform itself, such as `babelrack provider install --project` writes; one that the
    environment names wins.
    """

    def __init__(
        self,
        folder: Path,
        workspace: str,
        variables: Mapping[str, str] | None = None,
        configuration: Path | None = None,
    ) -> None:
        self.folder = folder
        self._configuration = configuration
        self.workspace = workspace
        self.applied = False
        """Whether an apply was begun."""
        self._variables = [f"{name}={value}" for name, value in (variables or {}).items()]
        if not (folder / "main.tf").is_file():
            raise FleetError(f"{folder} has no main.tf; make the pack's Terraform root with `babelrack new pack NAME`.")
        if shutil.which("terraform") is None:
            raise FleetError("terraform is not installed; install Terraform 1.6 or newer and put it on PATH.")
        # It reads a state file of its own accord, which may be large and which nothing here needs: name none.
        self._terraform = Terraform(working_dir=str(folder), state="none")

    def prepare(self) -> None:
        """Initialise the root and make sure that the workspace is there.

        Raises:
            FleetError: with Terraform's own words.
        """
        code, out, err = self._run("init", selected=False, no_color=IsFlagged, input=False)
        if code:
            missing = "babelrack/onprem" in err and "Failed to query available provider packages" in err
            fix = "the provider is not installed; run `babelrack provider install`." if missing else _said(err or out)
            raise FleetError(f"terraform init of {self.folder.name} failed: {fix}")
        self._must("workspace select", self.workspace, selected=False, or_create=IsFlagged, no_color=IsFlagged)

    @contextlib.contextmanager
    def plan(self, *, destroy: bool = False, colour: bool = False) -> Iterator[Plan]:
        """Plan, to a private file that is gone when the context ends.

        Raises:
            FleetError: with Terraform's own words.
        """
        with tempfile.TemporaryDirectory(prefix="babelrack-plan-") as scratch:  # a plan holds values: mode 0700
            file = Path(scratch, "plan")
            options: dict[str, Any] = {"out": str(file), "var": self._variables, "no_color": IsFlagged, "input": False}
            if destroy:
                options["destroy"] = IsFlagged
            code = self._must("plan", detailed_exitcode=IsFlagged, good=(0, 2), **options)[0]
            shown = {} if colour else {"no_color": IsFlagged}
            text = self._must("show", str(file), **shown)[1]
            document = json.loads(self._must("show", str(file), json=IsFlagged)[1])
            yield Plan(file, text.strip("\n"), _changes(document), empty=code == 0)

    def apply(self, plan: Plan) -> None:
        """Apply a plan; Terraform writes its progress to this process's own stdout.

        Raises:
            FleetError: when it failed; what Terraform said is on stderr.
            KeyboardInterrupt: after Terraform has stopped in good order.
        """
        sys.stdout.flush()
        self.applied = True
        # Straight to our own output, not through a pipe: Terraform must survive this process.
        code = self._run("apply", str(plan.file), capture_output=False, input=False, **self._colour())[0]
        if code != 0:
            raise FleetError(
                f"terraform apply of {self.folder.name} at {self.workspace} failed (see above); "
                "what was done is in the state: plan again to see what is left."
            )

    def outputs(self) -> dict[str, Any]:
        """Every output's value; empty when nothing was applied at this site yet.

        Raises:
            FleetError: with Terraform's own words.
        """
        document = json.loads(self._must("output", json=IsFlagged)[1])
        return {name: entry["value"] for name, entry in document.items()}

    def _colour(self) -> dict[str, Any]:
        return {} if sys.stdout.isatty() else {"no_color": IsFlagged}

    def _must(self, command: str, *arguments: str, good: Sequence[int] = (0,), **options: Any) -> tuple[int, str]:
        code, out, err = self._run(command, *arguments, **options)
        if code not in good:
            what = f"terraform {command} of {self.folder.name} at {self.workspace}"
            raise FleetError(f"{what} failed: {_said(err) or _said(out) or f'exit code {code}'}")
        return code, out

    def _run(self, command: str, *arguments: str, selected: bool = True, **options: Any) -> tuple[int, str, str]:
        """Terraform's exit code, stdout and stderr; `selected` is False before the workspace is there."""
        changed = _ENVIRONMENT | _configuration_file(self._configuration)
        # By environment, so that nobody who selects another one in this folder meanwhile changes what we apply.
        changed |= {"TF_WORKSPACE": self.workspace if selected else None}
        with _environment(changed):
            # Not `synchronous=False`: the library would pass that on as an option of Terraform's.
            process, _, _ = self._terraform.cmd(command, *arguments, synchronous=None, **options)
        return _finish(process)


def _finish(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    interrupted = False
    while True:
        try:
            out, err = process.communicate()
            break
        except KeyboardInterrupt:
            # The terminal has interrupted Terraform, too. It stops in good order; a second signal would kill it.
            interrupted = True
    if interrupted:
        raise KeyboardInterrupt
    return process.returncode, (out or b"").decode(errors="replace"), (err or b"").decode(errors="replace")


def _changes(document: Mapping[str, Any]) -> tuple[Change, ...]:
    return tuple(
        Change(
            address=change["address"],
            type=change["type"],
            index=None if change.get("index") is None else str(change["index"]),
            actions=tuple(change["change"]["actions"]),
        )
        for change in document.get("resource_changes", ())
        if change["mode"] == "managed" and change["change"]["actions"] != ["no-op"]
    )


def _configuration_file(ours: Path | None) -> dict[str, str | None]:
    """Terraform only warns of a configuration file that isn't there, and finds no provider of ours then."""
    named = os.environ.get("TF_CLI_CONFIG_FILE")
    if named and Path(named).is_file():
        return {}
    return {"TF_CLI_CONFIG_FILE": str(ours) if ours and ours.is_file() else None}


def _said(text: str) -> str:
    """Terraform's message without its frame, on one line a paragraph."""
    paragraphs = re.split(r"\n\s*\n", _FRAME.sub("", text).strip())
    return "\n  ".join(" ".join(paragraph.split()) for paragraph in paragraphs).removeprefix("Error: ")


@contextlib.contextmanager
def _environment(changed: Mapping[str, str | None]) -> Iterator[None]:
    """This process's environment, changed while a child is started: the library gives its children no other."""
    with _spawning:
        before = {name: os.environ.get(name) for name in changed}
        _set(changed)
        try:
            yield
        finally:
            _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value

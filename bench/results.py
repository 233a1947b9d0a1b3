"""What was measured, and its file `bench/results/latest.json`."""

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from bench.accuracy import Accuracy
from bench.checkpoints import ROOT
from bench.isolation import Isolation
from bench.keywords import Keywords
from bench.long_file import LongFile
from bench.machine import Machine, machine
from bench.resources import Resources
from bench.throughput import Cell
from bench.words import Words

LATEST = ROOT / "bench" / "results" / "latest.json"


@dataclass
class Results:
    """One run on one machine; what wasn't measured is empty or None, and `failed` says of a system why.

    `versions` are those of the packages by name; `quick` means that the numbers only show that it works.
    """

    date: str
    machine: Machine
    threads: int
    quick: bool
    versions: dict[str, str] = field(default_factory=dict)
    throughput: list[Cell] = field(default_factory=list)
    accuracy: list[Accuracy] = field(default_factory=list)
    long_file: list[LongFile] = field(default_factory=list)
    words: list[Words] = field(default_factory=list)
    keywords: Keywords | None = None
    resources: Resources | None = None
    isolation: Isolation | None = None
    failed: dict[str, str] = field(default_factory=dict)

    @classmethod
    def now(cls, threads: int, *, quick: bool) -> "Results":
        """Return the empty results of a run that starts here and now."""
        return cls(datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), machine(), threads, quick)

    @classmethod
    def read(cls, path: Path = LATEST) -> "Results":
        """Return the results of the last run that was kept."""
        written = json.loads(path.read_text())
        return cls(
            date=written["date"],
            machine=Machine(**written["machine"]),
            threads=written["threads"],
            quick=written["quick"],
            versions=written["versions"],
            throughput=[Cell(**cell) for cell in written["throughput"]],
            accuracy=[Accuracy(**each) for each in written["accuracy"]],
            long_file=[LongFile(**each) for each in written["long_file"]],
            words=[Words(**each) for each in written.get("words", [])],
            keywords=Keywords(**written["keywords"]) if written.get("keywords") else None,
            resources=Resources(**written["resources"]) if written["resources"] else None,
            isolation=Isolation(**written["isolation"]) if written["isolation"] else None,
            failed=written["failed"],
        )

    def write(self, path: Path = LATEST) -> None:
        """Keep the results for `read`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")

    def over(self, earlier: "Results") -> "Results":
        """Return these results, and what only the earlier ones on the same machine have."""
        if self.machine != earlier.machine or self.threads != earlier.threads:
            raise ValueError("the kept results are of another machine; measure all with `make bench`")
        cells = {(cell.system, cell.length, cell.at_once): cell for cell in [*earlier.throughput, *self.throughput]}
        parts = (self.throughput, self.accuracy, self.long_file, self.words)
        measured = {name for part in parts for name in (each.system for each in part)}
        return Results(
            date=self.date,
            machine=self.machine,
            threads=self.threads,
            quick=self.quick or earlier.quick,
            versions=earlier.versions | self.versions,
            throughput=list(cells.values()),
            accuracy=list({each.system: each for each in [*earlier.accuracy, *self.accuracy]}.values()),
            long_file=list({each.system: each for each in [*earlier.long_file, *self.long_file]}.values()),
            words=list({each.system: each for each in [*earlier.words, *self.words]}.values()),
            keywords=self.keywords or earlier.keywords,
            resources=self.resources or earlier.resources,
            isolation=self.isolation or earlier.isolation,
            failed={name: why for name, why in earlier.failed.items() if name not in measured} | self.failed,
        )

    def cell(self, system: str, length: int, at_once: int) -> Cell | None:
        """Return one cell of the throughput, None if it wasn't measured."""
        for cell in self.throughput:
            if (cell.system, cell.length, cell.at_once) == (system, length, at_once):
                return cell
        return None

    def accuracy_of(self, system: str) -> Accuracy | None:
        """Return a system's accuracy, None if it wasn't measured."""
        return next((each for each in self.accuracy if each.system == system), None)

    def words_of(self, system: str) -> Words | None:
        """Return how a system times words, None if it wasn't measured."""
        return next((each for each in self.words if each.system == system), None)

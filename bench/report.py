"""Results as tables: on the terminal, and in `docs/performance.md` between its markers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable

from bench.accuracy import Accuracy
from bench.checkpoints import ROOT
from bench.goals import goals
from bench.results import Results
from bench.systems import REFERENCE, SYSTEMS
from bench.throughput import Cell

DOCUMENT = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
MIB = 2**20


@dataclass(frozen=True)
class Table:
    """A title, column names, rows of text; the first column is text, the others are numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return the table as GitHub's Markdown."""
        rule = ["---", *["---:"] * (len(self.columns) - 1)]
        lines = [self.columns, rule, *self.rows]
        return f"### {self.title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def rich(self) -> RichTable:
        """Return the table for a terminal."""
        table = RichTable(title=self.title, title_justify="left")
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="right" if index else "left")
        for row in self.rows:
            table.add_row(*row)
        return table


def tables(results: Results) -> list[Table]:
    """Return a table for each thing that was measured."""
    return [
        table for table in (_goals(results), *_throughput(results), _accuracy(results), *_rest(results)) if table.rows
    ]


def show(results: Results, console: Console) -> None:
    """Print the tables."""
    for table in tables(results):
        console.print(table.rich())
    for name, reason in results.failed.items():
        console.print(f"[red]not measured:[/] {name}: {reason}", highlight=False)


def write(results: Results) -> None:
    """Put the tables between the markers of `docs/performance.md`."""
    parts = [_preface(results), *(table.markdown() for table in tables(results))]
    parts += [f"Not measured: {SYSTEMS[name].title} ({reason})" for name, reason in results.failed.items()]
    put_between(DOCUMENT, BEGIN, END, "\n\n".join(parts))


def put_between(document: Path, begin: str, end: str, text: str) -> None:
    """Put a text between two markers of a document; raises ValueError where it hasn't got them."""
    before, found_begin, rest = document.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(f"{document} has no place for the tables; put the lines '{begin}' and '{end}' into it")
    document.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def _preface(results: Results) -> str:
    host = results.machine
    versions = ", ".join(f"{package} {version}" for package, version in sorted(results.versions.items()))
    flags = ", ".join(host.flags) or "none of those that matter"
    governor = host.governor or "not visible"
    text = (
        f"Measured on {results.date}: {host.cpu}, {host.cores} cores ({flags}; governor {governor}), "
        f"{host.memory_gib:g} GiB, {host.system}, Python {host.python}, {results.threads} threads a system. {versions}."
    )
    return text if not results.quick else f"{text}\n\n**A quick run: it shows that everything works, not how fast.**"


def _goals(results: Results) -> Table:
    rows = [(goal.goal, goal.measured, "yes" if goal.reached else "**no**") for goal in goals(results)]
    return Table("Goals", ("Goal", "Measured", "Reached"), rows)


def _throughput(results: Results) -> Iterator[Table]:
    numbers = sorted({cell.at_once for cell in results.throughput})
    for length in sorted({cell.length for cell in results.throughput}):
        rows = []
        for name, system in SYSTEMS.items():
            cells = [results.cell(name, length, number) for number in numbers]
            if any(cells):
                rows.append((system.title, *map(_cell, cells)))
        title = f"Clips of {length} s: audio seconds a second"
        yield Table(title, ("System", *(f"{number} at a time" for number in numbers)), rows)


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    return f"{cell.median:.1f} ± {100 * cell.spread:.0f} %" if len(cell.rtfx) > 1 else f"{cell.median:.1f}"


def _accuracy(results: Results) -> Table:
    languages = sorted({language for each in results.accuracy for language in each.by_language})
    reference = results.accuracy_of(REFERENCE)
    rows = [_accuracy_row(each, languages, reference) for each in results.accuracy]
    words = results.accuracy[0].words if results.accuracy else 0
    columns = ("System", "All", *languages, "Loops", "As reference")
    return Table(f"Word error rate, %, over {words} words", columns, rows)


def _accuracy_row(accuracy: Accuracy, languages: Sequence[str], reference: Accuracy | None) -> Sequence[str]:
    rates = [accuracy.wer, *(accuracy.by_language[language] for language in languages)]
    same = f"{accuracy.same_as(reference)} of {len(accuracy.texts)}" if reference else "–"
    return (SYSTEMS[accuracy.system].title, *(f"{100 * rate:.1f}" for rate in rates), str(accuracy.loops), same)


def _rest(results: Results) -> Iterator[Table]:
    rows = [
        (SYSTEMS[each.system].title, f"{each.rtfx:.1f}", f"{100 * each.wer:.1f}", f"{each.peak_bytes / MIB:.0f}")
        for each in results.long_file
    ]
    minutes = results.long_file[0].minutes if results.long_file else 0
    columns = ("System", "Audio seconds a second", "Word error rate, %", "Most memory resident, MiB")
    yield Table(f"A recording of {minutes:.0f} minutes", columns, rows)
    rows = [
        (
            SYSTEMS[each.system].title,
            f"{1000 * each.median_s:.0f}",
            f"{1000 * each.p90_s:.0f}",
            f"{each.rtfx:.1f}",
            f"{100 * each.cost:.0f} %",
        )
        for each in results.words
    ]
    boundaries = max((each.boundaries for each in results.words), default=0)
    columns = ("System", "Median error, ms", "Nine of ten below, ms", "Audio seconds a second", "Cost of words")
    yield Table(f"Times of words, over {boundaries} boundaries", columns, rows)
    if keywords := results.keywords:
        columns = ("Keywords", "Made ready in", "A token's decode", "Without", "Cost")
        times = [f"{1000 * each:.2f} ms" for each in (keywords.step_s, keywords.plain_step_s)]
        row = (f"{keywords.phrases:,}", f"{keywords.made_s:.2f} s", *times, f"{100 * keywords.cost:.1f} %")
        yield Table("Keywords, engine, 16 clips of 11 s at a time", columns, [row])
    if resources := results.resources:
        columns = ("Checkpoints", "Ready after", "Resident, MiB", "Most resident, MiB")
        numbers = [f"{each / MIB:.0f}" for each in (resources.resident_bytes, resources.peak_bytes)]
        started = (f"{resources.checkpoints} of Whisper base", f"{resources.ready_s:.1f} s", *numbers)
        yield Table("Model server", columns, [started])
    if isolation := results.isolation:
        alone = ("while the pack is idle", f"{isolation.alone_s:.2f} s", str(isolation.requests))
        busy = f"while {isolation.clients} clients saturate the pack"
        during = (busy, f"{isolation.during_s:.2f} s", f"{isolation.requests}, {isolation.failures} failed in both")
        answers = ", ".join(f"{count} × {status}" for status, count in sorted(isolation.busy.items()))
        seen = ("One client of the other pack", "Median latency", "Requests")
        yield Table("Isolation", seen, [alone, during, ("answers of the saturated pack", answers, "")])

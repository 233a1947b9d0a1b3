"""`python -m bench`: everything, side by side; `python -m bench EXPERIMENT` one part of it."""

import os
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from typing import Annotated

import typer
from rich.console import Console

from bench import accuracy, isolation, keywords, long_file, report, resources, throughput, words, workload
from bench.environments import EnvironmentFailed
from bench.live import measure
from bench.live import report as live_report
from bench.live.client import StreamFailed
from bench.process import Process, SystemFailed
from bench.rack import RackFailed
from bench.results import LATEST, Results
from bench.systems import SYSTEMS

console = Console(stderr=True)


class Experiment(StrEnum):
    """What can be measured."""

    THROUGHPUT = "throughput"
    ACCURACY = "accuracy"
    WORDS = "words"
    KEYWORDS = "keywords"
    LONG_FILE = "long-file"
    RESOURCES = "resources"
    ISOLATION = "isolation"
    LIVE = "live"


OF_SYSTEMS = {Experiment.THROUGHPUT, Experiment.ACCURACY, Experiment.WORDS, Experiment.KEYWORDS, Experiment.LONG_FILE}


def main(
    experiments: Annotated[list[Experiment] | None, typer.Argument(help="What to measure; default all.")] = None,
    systems: Annotated[str, typer.Option(help="Comma-separated: " + ", ".join(SYSTEMS))] = "",
    vllm: Annotated[bool, typer.Option("--vllm", envvar="VLLM", help="Also vLLM; its environment takes 3 GB.")] = False,
    lengths: Annotated[str, typer.Option(help="Seconds of the clips.")] = ",".join(map(str, workload.LENGTHS)),
    at_once: Annotated[str, typer.Option(help="Requests at a time.")] = ",".join(map(str, workload.AT_ONCE)),
    threads: Annotated[int, typer.Option(min=1, help="Threads of each system.")] = len(os.sched_getaffinity(0)),
    quick: Annotated[
        bool, typer.Option("--quick", help="A little audio, once: shows that it works, not how fast.")
    ] = False,
    keep: Annotated[
        bool | None,
        typer.Option(help="Write docs/performance.md and bench/results/; default after a whole run that isn't quick."),
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Keep what was measured, beside what the kept results have of the rest.")
    ] = False,
) -> None:
    """Measure Babelrack and its peers, one after another, each in a process of its own; nothing else should run."""
    wanted = set(experiments or Experiment)
    if Experiment.LIVE in wanted:
        _live(threads, quick=quick, keep=keep if keep is not None else not (quick or experiments))
        wanted.remove(Experiment.LIVE)
        if not wanted:
            return
    names = _names(systems, vllm=vllm)
    cells = (
        _numbers("--lengths", lengths, workload.LENGTHS),
        _numbers("--at-once", at_once, range(1, max(workload.AT_ONCE) + 1)),
    )
    results = Results.now(threads, quick=quick)
    earlier = _earlier(results) if update else None
    if wanted & OF_SYSTEMS:
        for name in names:
            _guarded(results, name, partial(_system, results, name, wanted, *cells))
    if Experiment.RESOURCES in wanted:
        _guarded(results, "resources", partial(_resources, results))
    if Experiment.ISOLATION in wanted:
        _guarded(results, "isolation", partial(_isolation, results))
    if earlier is not None:
        results = results.over(earlier)
    report.show(results, Console())
    if update or (keep if keep is not None else not (quick or experiments or systems)):
        results.write()
        report.write(results)
        _say(f"written to {LATEST} and {report.DOCUMENT}")
    raise typer.Exit(1 if results.failed else 0)


def _live(threads: int, *, quick: bool, keep: bool) -> None:
    """Live streams have results and tables of their own, because they take half an hour of their own."""
    live = measure.begin(threads, quick=quick)
    failed = ""
    try:
        measure.measure(live, _say)
    except (SystemFailed, RackFailed, StreamFailed) as error:
        failed = f"bench: live: {error}"
    if live.paces:
        live_report.show(live, Console())
        if keep:
            live_report.write(live)
            _say(f"written to {live_report.LATEST} and {report.DOCUMENT}")
    sys.exit(failed or 0)


def _earlier(results: Results) -> Results:
    """The kept results, asked for before hours are spent on what doesn't go with them."""
    try:
        earlier = Results.read()
        results.over(earlier)
    except (OSError, ValueError) as error:
        sys.exit(f"bench: --update: {error}.")
    return earlier


def _system(
    results: Results, name: str, wanted: set[Experiment], lengths: Sequence[int], at_once: Sequence[int]
) -> None:
    times_words = Experiment.WORDS in wanted and SYSTEMS[name].words
    listens = Experiment.KEYWORDS in wanted and name == keywords.SYSTEM
    if wanted & {Experiment.THROUGHPUT, Experiment.ACCURACY} or times_words or listens:
        with Process(name, results.threads, _say) as process:
            results.versions |= process.versions
            if Experiment.ACCURACY in wanted:
                results.accuracy.append(accuracy.measure(process, _say, quick=results.quick))
            if times_words:
                results.words.append(words.measure(process, _say, quick=results.quick))
            if listens:
                results.keywords = keywords.measure(process, _say, quick=results.quick)
            if Experiment.THROUGHPUT in wanted:
                results.throughput += throughput.measure(process, lengths, at_once, _say, quick=results.quick)
    if Experiment.LONG_FILE in wanted and SYSTEMS[name].long:
        # A process of its own, so that the memory it reports is this recording's.
        with Process(name, results.threads, _say) as process:
            results.versions |= process.versions
            results.long_file.append(long_file.measure(process, _say, quick=results.quick))


def _resources(results: Results) -> None:
    results.resources = resources.measure(results.threads, _say, quick=results.quick)


def _isolation(results: Results) -> None:
    results.isolation = isolation.measure(results.threads, _say, quick=results.quick)


def _guarded(results: Results, name: str, measure: Callable[[], None]) -> None:
    """Measure; one that can't be measured is reported and doesn't end the others."""
    try:
        measure()
    except (EnvironmentFailed, SystemFailed, RackFailed, resources.NotReady) as error:
        results.failed[name] = str(error)
        _say(f"[red]{error}[/]")


def _names(systems: str, *, vllm: bool) -> list[str]:
    names = [name.strip() for name in systems.split(",") if name.strip()]
    for name in names:
        if name not in SYSTEMS:
            sys.exit(f"bench: there is no system {name!r}; choose among {', '.join(SYSTEMS)}.")
    return names or [name for name in SYSTEMS if vllm or name != "vllm"]


def _numbers(option: str, text: str, allowed: Sequence[int]) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not set(numbers) <= set(allowed):
        wanted = f"{allowed[0]} to {allowed[-1]}" if isinstance(allowed, range) else " or ".join(map(str, allowed))
        sys.exit(f"bench: {option} {text}: write {wanted}, with commas between them.")
    return numbers


def _say(text: str) -> None:
    console.print(f"[dim]{text}[/]", highlight=False)


if __name__ == "__main__":
    typer.run(main)

"""What Babelrack wants to reach beside its peers, and whether a run did."""

from collections.abc import Iterator
from dataclasses import dataclass

from bench.results import Results
from bench.systems import REFERENCE


@dataclass(frozen=True)
class Goal:
    """One goal: what was measured in words, and whether that is enough."""

    goal: str
    measured: str
    reached: bool


def goals(results: Results) -> list[Goal]:
    """Return those goals for which everything that they compare was measured."""
    parts = (_throughput, _accuracy, _long_file, _words, _keywords, _servers)
    return [goal for part in parts for goal in part(results)]


def _throughput(results: Results) -> Iterator[Goal]:
    comparisons = [
        ("engine", "vllm", 16, 2.5, "Engine at least 2.5 times vLLM CPU (11 s, 16 at a time)"),
        ("engine", "ctranslate2-unpadded", 16, 1.0, "Engine not below CTranslate2 int8 unpadded (11 s, 16 at a time)"),
        ("http", "engine", 16, 0.8, "End to end at least 80 % of the engine alone (11 s, 16 at a time)"),
        ("engine", "faster-whisper", 1, 1.0, "Engine faster than faster-whisper int8 (11 s, one at a time)"),
    ]
    for ours, theirs, at_once, factor, goal in comparisons:
        mine, other = results.cell(ours, 11, at_once), results.cell(theirs, 11, at_once)
        if mine and other:
            ratio = mine.median / other.median
            yield Goal(goal, f"{mine.median:.1f} / {other.median:.1f} = {ratio:.2f}", ratio >= factor)


def _accuracy(results: Results) -> Iterator[Goal]:
    reference = results.accuracy_of(REFERENCE)
    for system in ("engine", "http"):
        ours = results.accuracy_of(system)
        if ours and reference:
            points = 100 * (ours.wer - reference.wer)
            yield Goal(
                f"Word error rate of {system} at most 0.5 points over the padded fp32 reference",
                f"{100 * ours.wer:.2f} %, {points:+.2f} points",
                points <= 0.5,
            )
        if ours:
            yield Goal(f"No loops in what {system} says", str(ours.loops), ours.loops == 0)


def _words(results: Results) -> Iterator[Goal]:
    ours, theirs = results.words_of("engine"), results.words_of("faster-whisper")
    if ours:
        median = f"{1000 * ours.median_s:.0f} ms"
        yield Goal("Words begin and end within 80 ms of where they are said", median, ours.median_s < 0.08)
        yield Goal("Words cost at most a third of throughput", f"{100 * ours.cost:.0f} %", ours.cost <= 1 / 3)
    if ours and theirs:
        yield Goal(
            "Times of words no worse than faster-whisper's",
            f"{1000 * ours.median_s:.0f} / {1000 * theirs.median_s:.0f} ms",
            ours.median_s <= theirs.median_s,
        )


def _keywords(results: Results) -> Iterator[Goal]:
    if keywords := results.keywords:
        goal = f"{keywords.phrases:,} keywords cost at most 5 % of decode time"
        yield Goal(goal, f"{100 * keywords.cost:.1f} %", keywords.cost <= 0.05)


def _long_file(results: Results) -> Iterator[Goal]:
    ours = next((each for each in results.long_file if each.system == "http"), None)
    engine = results.cell("engine", 11, 16)
    if ours and engine:
        share = ours.rtfx / engine.median
        goal = f"A {ours.minutes:.0f}-minute file at 80 % of the engine's throughput (11 s, 16 at a time)"
        yield Goal(goal, f"{ours.rtfx:.1f} / {engine.median:.1f} = {share:.2f}", share >= 0.8)


def _servers(results: Results) -> Iterator[Goal]:
    if resources := results.resources:
        count = resources.checkpoints
        ready = resources.ready_s
        yield Goal(f"Model server with {count} checkpoints ready in under 15 s", f"{ready:.1f} s", ready < 15)
        gb = resources.resident_bytes / 1e9
        yield Goal(f"Model server with {count} checkpoints under 2 GB resident", f"{gb:.2f} GB", gb < 2)
    if isolation := results.isolation:
        yield Goal(
            f"One pack's median latency at most doubles while {isolation.clients} clients saturate the other",
            f"{isolation.alone_s:.2f} s → {isolation.during_s:.2f} s, × {isolation.ratio:.2f}",
            isolation.ratio <= 2.0,
        )
        yield Goal("Nothing of it fails", f"{isolation.failures} failures", isolation.failures == 0)

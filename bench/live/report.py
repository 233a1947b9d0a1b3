"""What was measured of live streams as tables: on the terminal, and in `docs/performance.md` between its markers."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console

from bench.checkpoints import ROOT
from bench.live.measure import Live, Pace
from bench.report import DOCUMENT, Table, put_between

LATEST = ROOT / "bench" / "results" / "live.json"
BEGIN, END = "<!-- bench live: begin -->", "<!-- bench live: end -->"


def show(live: Live, console: Console) -> None:
    """Print the tables."""
    for table in tables(live):
        console.print(table.rich())


def tables(live: Live) -> list[Table]:
    """Return the measurements as tables."""
    columns = (
        "Streams at once", "Word shown, s", "Nine of ten", "Final after the endpoint, s", "Nine of ten", "Behind, s",
        "Word error rate, %",
    )  # fmt: skip
    found = [
        Table("Live streams through nginx and API server", columns, [_row(pace) for pace in live.paces]),
        Table(
            "faster-whisper int8, each utterance decoded again from its start", columns, [_row(p) for p in live.peer]
        ),
    ]
    if hour := live.hour:
        parts = [f"Part {number}" for number in range(1, len(hour.cpu) + 1)]
        numbers = [f"{each:.3f}" for each in hour.cpu]
        columns = ("", *parts, "Largest difference", "Resident, first part and end, MiB")
        memory = " / ".join(f"{each / 2**20:.0f}" for each in hour.resident)
        row = ("CPU seconds for a second of audio", *numbers, f"{100 * hour.drift:.1f} %", memory)
        found.append(Table(f"One session of {hour.minutes:g} minutes without a pause", columns, [row]))
    return [_goals(live), *found]


def _goals(live: Live) -> Table:
    rows = []
    eight = next((pace for pace in live.paces if pace.streams == 8), None)
    if eight:
        points = 100 * (eight.wer - live.file_wer)
        rate = f"{100 * eight.wer:.2f} %, {points:+.2f} points"
        rows += [
            ("A word is shown within 1.5 s of its end, 8 streams", f"{eight.word_s:.2f} s", eight.word_s < 1.5),
            ("A final comes within 1 s of the endpoint, 8 streams", f"{eight.final_s:.2f} s", eight.final_s < 1.0),
            ("Word error rate at most 1.5 points over the file's", rate, points <= 1.5),
        ]
    if live.hour:
        rows.append(
            (
                "Cost of a second of audio flat over an hour, ±10 %",
                f"{100 * live.hour.drift:.1f} %",
                live.hour.drift <= 0.1,
            )
        )
    ours, theirs = _sustained(live.paces), _sustained(live.peer)
    rows.append(("More streams sustained than decoding again and again", f"{ours} / {theirs}", ours > theirs))
    return Table("Goals", ("Goal", "Measured", "Reached"), [(g, m, "yes" if r else "**no**") for g, m, r in rows])


def _sustained(paces: Sequence[Pace]) -> int:
    return max((pace.streams for pace in paces if pace.sustained), default=0)


def _row(pace: Pace) -> tuple[str, ...]:
    numbers = (pace.word_s, pace.word_p90_s, pace.final_s, pace.final_p90_s, pace.behind_s)
    return (str(pace.streams), *(f"{number:.2f}" for number in numbers), f"{100 * pace.wer:.1f}")


def write(live: Live) -> None:
    """Keep the numbers, and put the tables into the document."""
    LATEST.write_text(json.dumps(asdict(live), indent=1, ensure_ascii=False) + "\n")
    host = live.machine
    versions = ", ".join(f"{package} {version}" for package, version in sorted(live.versions.items()))
    preface = f"Measured on {live.date}: {host.cpu}, {host.cores} cores ({', '.join(host.flags)}), {versions}."
    if live.quick:
        preface += "\n\n**A quick run: it shows that everything works, not how fast.**"
    put_between(DOCUMENT, BEGIN, END, "\n\n".join([preface, *(table.markdown() for table in tables(live))]))

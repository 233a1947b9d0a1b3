"""What became of every request in the tests of faults, as a table for docs/reliability.md."""

from pathlib import Path

from bench.report import Table, put_between

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
COLUMNS = ("What happens", "Clients of", "Sent", "Answered", "Refused cleanly", "Lost")


class Figures:
    """Rows in the order in which things happened."""

    def __init__(self):
        self.rows = []

    def add(self, what, pack, count):
        """Note what happened, to which pack's clients, and how many requests of each kind there were."""
        kinds = (count.total(), count["answered"], count["refused"], count["lost"])
        self.rows.append((what, pack, *map(str, kinds)))

    def write(self, file: Path):
        """Put the table between the marks of a document."""
        put_between(file, BEGIN, END, Table("What became of the requests", COLUMNS, self.rows).markdown())

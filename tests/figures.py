"""What became of every request in the tests of faults, as a table for docs/reliability.md."""

from pathlib import Path

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


class Figures:
    """Rows in the order in which things happened."""

    def __init__(self):
        self.rows = []

    def add(self, what, pack, count):
        """Note what happened, to which pack's clients, and how many requests of each kind there were."""
        self.rows.append((what, pack, count["answered"], count["refused"], count["lost"]))

    def table(self):
        """The table in Markdown."""
        lines = [
            "| What happens | Clients of | Sent | Answered | Refused cleanly | Lost |",
            "| --- | --- | ---: | ---: | ---: | ---: |",
        ]
        for what, pack, answered, refused, lost in self.rows:
            lines.append(f"| {what} | {pack} | {answered + refused + lost} | {answered} | {refused} | {lost} |")
        return "\n".join(lines)

    def write(self, file: Path):
        """Put the table between the marks of a document."""
        before, _, rest = file.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        file.write_text(f"{before}{BEGIN}\n\n{self.table()}\n\n{END}{after}")

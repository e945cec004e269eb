"""The results of a benchmark: tables and floors, printed, kept as JSON, and shown in benchmarks/README.md."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from shared_moe_conformer.device import tune_cpu


class Ratio(NamedTuple):
    """Ratio of two measured times, over several rounds."""

    median: float
    low: float
    """A quarter of the rounds lies below."""
    high: float
    """A quarter of the rounds lies above."""

    def divided(self, by: float) -> Ratio:
        """All of it divided."""
        return Ratio(*(part / by for part in self))


class Table(NamedTuple):
    """Rows of what was measured; text stays, numbers are rounded when shown."""

    title: str
    columns: list[str]
    rows: list[list[Any]]


class Floor(NamedTuple):
    """A target: `measured` may be `target` at most."""

    name: str
    target: float
    measured: float | Ratio

    @property
    def median(self) -> float:
        """The value that is compared with the target."""
        return self.measured.median if isinstance(self.measured, Ratio) else self.measured

    @property
    def reached(self) -> bool:
        """Whether it was."""
        return self.median <= self.target


class Report(NamedTuple):
    """One script's results."""

    tables: list[Table]
    floors: list[Floor]


def to_json(report: Report) -> str:
    """The report as JSON."""
    tables, floors = ([part._asdict() for part in parts] for parts in report)
    return json.dumps({"tables": tables, "floors": floors}, indent=1) + "\n"


def from_json(text: str) -> Report:
    """The report of `to_json`."""
    values = json.loads(text)
    tables = [Table(t["title"], t["columns"], [[*map(_cell, row)] for row in t["rows"]]) for t in values["tables"]]
    return Report(tables, [Floor(f["name"], f["target"], _cell(f["measured"])) for f in values["floors"]])


def _cell(value: Any) -> Any:
    """A cell as it was before JSON, which makes a list of a ratio."""
    return Ratio(*value) if isinstance(value, list) else value


def markdown(table: Table) -> str:
    """The table as Markdown, its title above it."""
    rows = [table.columns, ["---", *["---:"] * (len(table.columns) - 1)], *table.rows]
    lines = ["| " + " | ".join(shown(cell) for cell in row) + " |" for row in rows]
    return "\n".join([f"**{table.title}**", "", *lines])


def plain(table: Table) -> str:
    """The table as text for a terminal, columns aligned."""
    rows = [[shown(cell) for cell in row] for row in [table.columns, *table.rows]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths)))
        for row in rows
    ]
    return "\n".join([table.title, *lines])


def floors_table(floors: list[Floor]) -> Table:
    """The floors and whether they were reached."""
    rows = [[f.name, f"<= {f.target:g}", f.measured, "yes" if f.reached else "**no**"] for f in floors]
    return Table("Floors", ["what", "target", "measured", "reached"], rows)


def shown(cell: Any) -> str:
    """A cell for reading: three significant digits, whole from 100 on; a ratio with its quartiles; `-` for None."""
    if cell is None:
        return "-"
    if isinstance(cell, Ratio):
        return f"{shown(cell.median)} [{shown(cell.low)}, {shown(cell.high)}]"
    if not isinstance(cell, float):
        return f"{cell:,}" if isinstance(cell, int) else str(cell)
    if abs(cell) >= 100:
        return f"{cell:,.0f}"
    return f"{cell:.2f}" if abs(cell) >= 0.1 else f"{cell:.3g}"


def command_line(measure: Callable[[bool], Report], description: str | None) -> None:
    """A script's options; it runs on one thread."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round: does it run?")
    parser.add_argument("--json", type=Path, help="also write the results here")
    args = parser.parse_args()
    tune_cpu(1)
    report = measure(args.quick)
    for table in [*report.tables, *([floors_table(report.floors)] if report.floors else [])]:
        print(f"\n{plain(table)}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(to_json(report))

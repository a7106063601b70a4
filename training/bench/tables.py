"""A result as people read it: the same lines on the terminal and in the GPU check's Markdown."""

from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from semipose.training.bench.plot import plot
from semipose.training.bench.result import Result, Row, Target, short, write_result

UNITS = {"mib": "MiB", "gib": "GiB", "mb": "MB", "gb/s": "GB/s"}
COLUMNS = {"measured": "measured", "quartiles": "quartiles", "times": "x base", "beside": "beside it"}
VERDICTS = {True: "met", False: "missed", None: "not measured here"}


class Line(NamedTuple):
    """One line of a table: a row, a fact or a target. base: the row that `times` compares it with."""

    what: str
    measured: str
    quartiles: str = ""
    times: str = ""
    base: str = ""
    beside: str = ""
    group: str = ""


def finish(result: Result, output: Path, console: Console) -> Result:
    """Write the result and its plot, print its tables."""
    write_result(output, result)
    plot(result, output.with_suffix(".png"))
    for title, lines in sections(result).items():
        table = Table(title)
        columns = [field for field in COLUMNS if any(getattr(line, field) for line in lines)]
        for field in columns:
            table.add_column(COLUMNS[field], justify="left" if field == "beside" else "right")
        for line, following in zip(lines, [*lines[1:], None], strict=True):
            table.add_row(line.what, *(getattr(line, field) for field in columns))
            if following and line.group != following.group:
                table.add_section()
        console.print(table)
    console.print(f"written to {output}, plot beside it", highlight=False)
    return result


def sections(result: Result) -> dict[str, list[Line]]:
    """The lines of a result by what they are about."""
    skipped = [Line(name, "not measured", beside=reason) for name, reason in result.skipped.items()]
    lines = {
        result.bench: [*map(row_line, result.rows), *skipped],
        "facts": [Line(readable(name), short(value)) for name, value in result.facts.items()],
        "targets": [target_line(target) for target in result.targets],
    }
    return {title: of_title for title, of_title in lines.items() if of_title}


def row_line(row: Row) -> Line:
    """Median and quartiles; beside them the ratio to the base, and the facts of the row."""
    low, high = map(short, row.iqr)
    facts = (
        f"{readable(name)} {f'{value:.2%}' if name.endswith('_share') else short(value)}"
        for name, value in row.facts.items()
    )
    return Line(
        row.name,
        f"{short(row.median)} {row.unit}",
        quartiles=f"{low} to {high}",
        times="" if row.times_base is None else f"{row.times_base:.2f}x",
        base=row.base or "",
        beside=", ".join(facts),
        group=row.group,
    )


def target_line(target: Target) -> Line:
    """What was measured; beside it what was asked, and whether it was met."""
    verdict = f"asked: {target.asked}; {VERDICTS[target.is_met]}"
    return Line(target.what, target.measured or "", beside=verdict)


def readable(name: str) -> str:
    """The name of a fact in words."""
    return " ".join(UNITS.get(word, word) for word in name.replace("_per_s", "/s").split("_"))

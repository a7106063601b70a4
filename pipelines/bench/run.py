"""The benchmark, top to bottom: people, rows, timing in turns, result file, plot, table."""

import tempfile
from contextlib import ExitStack
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from configs.load import command
from configs.schema import plain
from pipelines.bench.limits import gpu_limits
from pipelines.bench.measure import Variant, describe_machine, measure
from pipelines.bench.plot import plot
from pipelines.bench.result import Result, Row, compare, make_row, short, write_result
from pipelines.bench.rows import BASES, all_variants
from pipelines.bench.settings import BenchSettings, open_people


def run(cfg: BenchSettings, console: Console) -> Result:
    """Measure, write the result file and the plot, print the table; returns the result.

    The file is written anew after every round, so that a benchmark that is cut short leaves what it has.
    """
    machine = describe_machine()
    limits = gpu_limits(cfg) if torch.cuda.is_available() else {}  # before any loader fills its queues
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        people = open_people(cfg, cfg.views, Path(folder), console)
        variants, skipped = all_variants(cfg, people, stack)
        rates: dict[str, list[float]] = {variant.name: [] for variant in variants}
        described = people.describe()
        for number in track(range(cfg.rounds), "rounds", console=console):
            for name, found in measure(variants, rounds=[number]).items():
                rates[name] += found
            result = Result(
                bench="pipelines",
                machine=machine,
                settings=plain(cfg),
                data=described,
                rows=make_rows(variants, rates),
                skipped=skipped,
                facts=limits,
            )
            write_result(cfg.output, result)
    plot(result, cfg.output.with_suffix(".png"))
    console.print(table(result))
    console.print(f"written to {cfg.output}, plot beside it", highlight=False)
    return result


def make_rows(variants: list[Variant], rates: dict[str, list[float]]) -> tuple[Row, ...]:
    """A row for each variant, compared with the base of its group."""
    rows = {
        each.name: make_row(each.name, rates[each.name], group=each.group, unit=each.unit)
        for each in variants
    }
    return tuple(compare(row, rows.get(BASES.get(row.group, ""))) for row in rows.values())


def table(result: Result) -> Table:
    """The rows as people read them, and what was left out."""
    shown = Table("row", title=f"persons a second on {result.data['people']} people", title_justify="left")
    for title in ("median", "quartiles", "times the base"):
        shown.add_column(title, justify="right")
    group = result.rows[0].group if result.rows else ""
    for row in result.rows:
        if row.group != group:
            group = row.group
            shown.add_section()
        times = "" if row.times_base is None else f"{row.times_base:.2f}"
        shown.add_row(row.name, f"{row.median:,.0f}", f"{row.iqr[0]:,.0f} to {row.iqr[1]:,.0f}", times)
    shown.add_section()
    for name, reason in result.skipped.items():
        shown.add_row(name, "", reason, "")
    shown.add_section()
    for name, limit in result.facts.items():
        shown.add_row(name, short(limit), "limit of this machine, in its own unit", "")
    return shown


def main() -> None:
    """Measure with progress and table on the terminal."""
    command(
        BenchSettings,
        lambda cfg: run(cfg, Console()),
        description="Throughput of the pipelines, stage by stage, against the classic loader and others.",
    )

"""Tables of finished runs: means over seeds and draws, and differences from a baseline, one by one."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from semipose.configs.console import plain_console
from semipose.configs.load import InputError
from semipose.configs.settings import settings
from semipose.sharding.store.files import write_atomic
from semipose.training.experiments.plot import Curve, Point, draw_curves, draw_labels, draw_parameters, plot
from semipose.training.experiments.runs import (
    Group,
    Protocol,
    Replicate,
    Run,
    find_runs,
    group_runs,
    mean_sd,
    read_run,
)
from semipose.training.run_files import binned, read_losses

SECTIONS = ("one network", "several networks")
ALWAYS_SHOWN = ("AP", "AR", "AP-easy", "AP-medium", "AP-hard")
"""Scores in every table whose runs have them; the last three are CrowdPose's."""
NAME = "compare"
Plot = Literal["labels", "curves", "parameters"]


@settings
class CompareSettings:
    """The comparison."""

    baseline: str | None = None
    """The row that the others are compared with, seed by seed and draw by draw."""
    metrics: tuple[str, ...] = ()
    """Scores to show; without any the runs' own metric, AP and AR, and CrowdPose's easy, medium and hard."""
    every_network: bool = False
    """Rows for every scored network of a run, such as an averaged teacher, beside its product."""
    plot: Plot = "labels"
    """The picture: labels (the score at each number of labels, where it varies), curves (score and loss over
    training) or parameters (the score at the number of trained parameters)."""
    output: str | None = None
    """Folder of compare.md and its picture; without it the folder that every RUN_DIR is or lies in."""


@dataclass(frozen=True)
class Row:
    """One line of a table: a scored network of the runs of a group."""

    title: str
    group: Group
    network: str

    def values(self, metric: str, *, best: bool = False) -> dict[Replicate, float]:
        """A score in percent by replicate, without runs that lack it or for which it means nothing (-1)."""
        found = {}
        for replicate, run in self.group.runs.items():
            value = (run.best if best else run.last)[self.network].get(metric, -1.0)
            if value >= 0:
                found[replicate] = 100 * value
        return found


@dataclass(frozen=True)
class Sheet:
    """One table as text: its caption, and for each section a header and lines."""

    caption: str
    header: list[str]
    sections: dict[str, list[list[str]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """The finished runs under some paths, by protocol, and in words what was left out."""

    tables: dict[Protocol, list[Group]]
    notes: list[str]


def read_all(paths: Sequence[Path]) -> Found:
    """Read every run under `paths`. Raises InputError where there is none, or where one is damaged."""
    runs = {folder: read_run(folder) for folder in find_runs(paths)}
    tables, repeated = group_runs(run for run in runs.values() if run is not None)
    return Found(tables, list(make_notes([folder for folder, run in runs.items() if run is None], repeated)))


def report(found: Found, cfg: CompareSettings, output: Path, console: Console | None = None) -> None:
    """Print the tables; write them to `output`/compare.md, and their picture beside it."""
    console = console or plain_console(width=None if sys.stdout.isatty() else 140)
    sheets = [make_sheet(protocol, groups, cfg) for protocol, groups in found.tables.items()]
    for sheet in sheets:
        print_sheet(sheet, console)
    output.mkdir(parents=True, exist_ok=True)
    write_atomic(output / f"{NAME}.md", markdown(sheets, found.notes).encode())
    written = [output / f"{NAME}.md", *draw(found.tables, cfg.plot, output)]
    for note in [*found.notes, f"written: {', '.join(map(str, written))}"]:
        console.print(note, highlight=False, soft_wrap=True)


def check_baseline(name: str | None, tables: dict[Protocol, list[Group]]) -> None:
    """Raise InputError where no table has a row of the baseline's name."""
    known = {group.name: None for groups in tables.values() for group in groups}
    if name is not None and known and name not in known:
        raise InputError(f"baseline={name}: there is no such row; known: {', '.join(known)}")


def make_sheet(protocol: Protocol, groups: list[Group], cfg: CompareSettings) -> Sheet:
    """The table of one protocol: one section for single networks, one for methods that train several."""
    baseline = next((group for group in groups if group.name == cfg.baseline), None)
    own = [group.any.metric for group in groups]
    scored = [name for group in groups for name in group.any.last[group.any.product]]
    wanted = cfg.metrics or [*own, *(name for name in ALWAYS_SHOWN if name in scored)]
    metrics = list(dict.fromkeys(wanted))
    seeds = "seeds" if protocol.labelled_ids is not None else "seed/draw"
    header = ["recipe", "networks", seeds, metrics[0], f"{metrics[0]}, best step", *metrics[1:]]
    caption = protocol.caption
    has_published = any(group.any.published for group in groups)
    header += ["published"] * has_published
    if baseline is not None:
        header.append(f"{metrics[0]} - {baseline.name}")
    elif cfg.baseline is not None:
        caption += f"; no {cfg.baseline} here"
    sheet = Sheet(caption, header)
    for row in sorted(
        make_rows(groups, every_network=cfg.every_network),
        key=lambda row: mean_or_zero(row.values(metrics[0])),
    ):
        section = SECTIONS[row.group.any.networks > 1]
        cells = line(row, metrics, baseline, has_published=has_published)
        sheet.sections.setdefault(section, []).append(cells)
    return Sheet(caption, header, {name: sheet.sections[name] for name in SECTIONS if name in sheet.sections})


def make_rows(groups: list[Group], *, every_network: bool = False) -> Iterator[Row]:
    """The product of each group, then its ensembles, and where asked for its other networks."""
    for group in groups:
        run = group.any
        yield Row(group.name, group, run.product)
        for network in run.last:
            if network in run.ensembles:
                yield Row(f"{group.name} (ensemble: {network})", group, network)
            elif every_network and network != run.product:
                yield Row(f"{group.name} ({network})", group, network)


def line(row: Row, metrics: list[str], baseline: Group | None, *, has_published: bool) -> list[str]:
    """The cells of a row, scores in percent: mean and standard deviation over its runs of the last step.

    has_published: whether the table has a column of published scores, those of a method's product.
    """
    seeds = ", ".join(map(str, row.group.runs))
    first, *others = metrics
    scores = [row.values(first), row.values(first, best=True), *(row.values(name) for name in others)]
    cells = [row.title, str(row.group.any.networks), seeds, *(cell(score) for score in scores)]
    is_product = row.network == row.group.any.product
    cells += [row.group.any.published if is_product else ""] * has_published
    return cells if baseline is None else [*cells, difference(row, baseline, first)]


def cell(values: dict[Replicate, float], sign: str = "") -> str:
    """`48.5 ± 0.3`; nothing where there is no value."""
    if not values:
        return ""
    middle, spread = mean_sd(list(values.values()))
    return f"{middle:{sign}.1f}" + ("" if spread is None else f" ± {spread:.1f}")


def difference(row: Row, baseline: Group, metric: str) -> str:
    """Mean and standard deviation of the `gains`; nothing for the baseline itself."""
    if row.group is baseline and row.network == baseline.any.product:
        return ""
    shared, count = gains(row, baseline, metric), len(row.values(metric))
    if not shared:
        return "no seed shared"
    text = cell(shared, "+")
    return text if len(shared) == count else f"{text} ({len(shared)} of {count} seeds)"


def gains(row: Row, baseline: Group, metric: str) -> dict[Replicate, float]:
    """The differences from the baseline's product in percent points, by replicate.

    Over those that both have, with the same labelled people.
    """
    own, base = row.values(metric), Row("", baseline, baseline.any.product).values(metric)
    return {
        key: own[key] - base[key]
        for key in own
        if key in base and row.group.runs[key].labelled_ids == baseline.runs[key].labelled_ids
    }


def mean_or_zero(values: dict[Replicate, float]) -> float:
    """What rows are sorted by."""
    return mean_sd(list(values.values()))[0] if values else 0.0


def make_notes(unfinished: list[Path], repeated: list[Run]) -> Iterator[str]:
    """What the tables leave out, in one sentence per reason."""
    if unfinished:
        yield f"Left out, as not finished: {', '.join(map(str, unfinished))}."
    if repeated:
        yield (
            "Left out, as repeating recipe, seed and labelled people of another run: "
            f"{', '.join(str(run.folder) for run in repeated)}."
        )


def draw(tables: dict[Protocol, list[Group]], kind: Plot, output: Path) -> list[Path]:
    """Draw the picture of `kind` into `output`; the files written, none where there is nothing to compare."""
    path = output / (f"{NAME}.png" if kind == "labels" else f"{NAME}-{kind}.png")
    if kind == "curves":
        plot(list(make_curves(tables)), path, draw_curves)
        return [path]
    points = list(make_points(tables, kind))
    if kind == "labels" and len({point.at for point in points}) < 2:
        return []
    plot(points, path, draw_parameters if kind == "parameters" else draw_labels)
    return [path]


def make_points(tables: dict[Protocol, list[Group]], kind: Plot) -> Iterator[Point]:
    """The product and the ensembles of each group at its number of labels, or of parameters.

    Raises InputError where a run does not say how many parameters it trained.
    """
    for protocol, groups in tables.items():
        for row in make_rows(groups):
            run = row.group.any
            values = row.values(run.metric)
            if not values:
                continue
            middle, spread = mean_sd(list(values.values()))
            panel = f"{run.metric} in percent, {protocol.val:,} people (ids {protocol.val_ids[:12]})"
            at = protocol.labelled
            if kind == "parameters":
                if run.trained_parameters is None:
                    raise InputError(
                        f"{run.folder}: its card does not say how many parameters are trained, since it is "
                        "of an older version: train the run again, or leave it out"
                    )
                at, panel = run.trained_parameters, f"{panel},\n{protocol.name}"
            yield Point(panel, row.title, at, middle, spread or 0.0, run.networks > 1)


def make_curves(tables: dict[Protocol, list[Group]]) -> Iterator[Curve]:
    """Score and loss of the product of each group over its training, every scoring and a hundredth of it."""
    for protocol, groups in tables.items():
        where = f"{protocol.name}, {protocol.labelled:,} labelled"
        for group in groups:
            run = group.any
            scored = [
                {
                    step: 100 * scores[run.product][run.metric]
                    for step, scores in each.history.items()
                    if scores[run.product].get(run.metric, -1.0) >= 0
                }
                for each in group.runs.values()
            ]
            yield make_curve(f"{run.metric} in percent,\n{where}", group, scored)
        for group in groups:
            losses = [binned(read_losses(run.folder), protocol.steps) for run in group.runs.values()]
            yield make_curve(f"loss,\n{where}", group, losses)


def make_curve(panel: str, group: Group, by_seed: list[dict[int, float]]) -> Curve:
    """The mean and deviation over seeds of a quantity {step: value} at every step that a seed has."""
    steps = sorted({step for values in by_seed for step in values})
    spreads = [mean_sd([values[step] for values in by_seed if step in values]) for step in steps]
    means, sds = tuple(mean for mean, _ in spreads), tuple(sd or 0.0 for _, sd in spreads)
    return Curve(panel, group.name, tuple(steps), means, sds, group.any.networks > 1)


def markdown(sheets: list[Sheet], notes: list[str]) -> str:
    """The tables as Markdown, scores in percent."""
    of_draws = any(sheet.header[2] != "seeds" for sheet in sheets)
    over = "seeds, each with its draw of labelled people" if of_draws else "seeds"
    lines = [f"Scores in percent at the last step: mean ± standard deviation over {over}.", ""]
    for sheet in sheets:
        lines += [f"**{sheet.caption}**", ""]
        for title, rows in sheet.sections.items():
            lines += [f"{title.capitalize()}:", "", f"| {' | '.join(sheet.header)} |"]
            lines += ["|---" * len(sheet.header) + "|"]
            lines += [*(f"| {' | '.join(text.replace('|', '/') for text in row)} |" for row in rows), ""]
    return "\n".join([*lines, *notes]).rstrip() + "\n"


def print_sheet(sheet: Sheet, console: Console) -> None:
    """The table on the console."""
    table = Table(title=Text(sheet.caption), title_justify="left", title_style="bold")
    for i, name in enumerate(sheet.header):
        table.add_column(Text(name), justify="left" if i in (0, 2) else "right", overflow="fold")
    for title, rows in sheet.sections.items():
        table.add_section()
        table.add_row(Text(title, style="italic"))
        for row in rows:
            table.add_row(*map(Text, row))
    console.print(table)

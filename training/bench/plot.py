"""The picture of a result: bars, a panel for each group of rows."""

from io import BytesIO
from pathlib import Path
from typing import Any

from semipose.sharding.store.files import write_atomic
from semipose.training.bench.result import Result, Row, short

INCHES_PER_BAR = 0.3
WIDTH_INCHES = 9.0


def plot(result: Result, path: Path) -> None:
    """Write the PNG, atomically: medians as bars, quartiles as whiskers; a panel is one group."""
    from matplotlib.figure import Figure  # here, as it takes half a second that only a plot needs

    panels: dict[tuple[str, str], list[Row]] = {}
    for row in result.rows:
        panels.setdefault((row.group, row.unit), []).append(row)
    heights = [len(rows) + 2 for rows in panels.values()]
    figure = Figure(figsize=(WIDTH_INCHES, INCHES_PER_BAR * sum(heights) + 0.6), layout="constrained")
    axes = figure.subplots(len(panels), squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for panel, ((group, unit), rows) in zip(axes, panels.items(), strict=True):
        draw_panel(panel, f"{group} ({unit})", rows)
    machine = result.machine
    figure.suptitle(
        f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores, {machine['commit']}", fontsize="small"
    )
    content = BytesIO()
    figure.savefig(content, format="png", dpi=120)
    write_atomic(path, content.getvalue())


def draw_panel(axes: Any, title: str, rows: list[Row]) -> None:
    """One bar per row, from the top down; a logarithmic axis if the rows differ a hundredfold."""
    heights = range(len(rows))
    medians = [row.median for row in rows]
    whiskers = [
        [row.median - row.iqr[0] for row in rows],
        [row.iqr[1] - row.median for row in rows],
    ]
    colours = ["C3" if row.base == row.name else "C0" for row in rows]
    axes.barh(heights, medians, xerr=whiskers, color=colours, ecolor="0.3", height=0.7)
    for height, row in zip(heights, rows, strict=True):
        times = "" if row.times_base is None else f"  ({row.times_base:.3g}x)"
        axes.annotate(f" {short(row.median)}{times}", (row.iqr[1], height), va="center", fontsize="small")
    if min(medians) > 0 and max(medians) > 100 * min(medians):
        axes.set_xscale("log")
        axes.set_xlim(right=8 * max(medians))
    else:
        axes.set_xlim(0, 1.3 * max(row.iqr[1] for row in rows))
    axes.set_yticks(list(heights), [row.name for row in rows], fontsize="small")
    axes.invert_yaxis()
    axes.set_title(title, fontsize="medium", loc="left")
    axes.grid(axis="x", alpha=0.3)

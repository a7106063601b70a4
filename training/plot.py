"""The picture of a comparison: scores against the number of labels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from sharding.files import write_atomic

INCHES = (8.0, 4.5)
MARKERS = "osD^vPX<>*h"  # eleven for ten colours, so that their pairs repeat late


@dataclass(frozen=True)
class Point:
    """The score of one method with one number of labels, in percent, with its standard deviation."""

    panel: str
    """What is on the vertical axis; points of one panel can be compared."""
    method: str
    labels: int
    mean: float
    sd: float
    has_several_networks: bool


def plot(points: Sequence[Point], path: Path) -> None:
    """Write the PNG, atomically: a panel for each `panel`, a line for each method, bars of one deviation."""
    from matplotlib.figure import Figure  # here, as it takes half a second that only a plot needs

    panels = list(dict.fromkeys(point.panel for point in points))
    width, height = INCHES
    figure = Figure(figsize=(width, height * len(panels)), layout="constrained")
    for axes, panel in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        draw_panel(axes, panel, [point for point in points if point.panel == panel])
    content = BytesIO()
    figure.savefig(content, format="png", dpi=150)
    write_atomic(path, content.getvalue())


def draw_panel(axes: Any, title: str, points: Sequence[Point]) -> None:
    """One line a method, dashed where it trains several networks; a little apart, so that bars show."""
    methods = sorted_by_last({point.method for point in points}, points)
    for i, method in enumerate(methods):
        own = sorted((p for p in points if p.method == method), key=lambda p: p.labels)
        apart = 1.01 ** (i - (len(methods) - 1) / 2)
        axes.errorbar(
            [p.labels * apart for p in own],
            [p.mean for p in own],
            yerr=[p.sd for p in own],
            label=method,
            color=f"C{i % 10}",
            marker=MARKERS[i % len(MARKERS)],
            linestyle="--" if own[0].has_several_networks else "-",
            capsize=3,
        )
    counts = sorted({point.labels for point in points})
    axes.set_xscale("log")
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("labelled people")
    axes.set_ylabel(title)
    axes.set_title("mean ± standard deviation over seeds; dashed: several networks", fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def sorted_by_last(methods: Iterable[str], points: Sequence[Point]) -> list[str]:
    """Methods from the best to the worst at their largest number of labels, as the legend lists them."""
    last = {point.method: point.mean for point in sorted(points, key=lambda point: point.labels)}
    return sorted(methods, key=lambda method: -last[method])

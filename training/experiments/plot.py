"""The pictures of a comparison: scores against labels or parameters, and curves over training."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

from semipose.sharding.store.files import write_atomic

INCHES = (8.0, 4.5)
MARKERS = "osD^vPX<>*h"  # eleven for ten colours, so that their pairs repeat late
OVER_SEEDS = "mean ± standard deviation over seeds"


@dataclass(frozen=True)
class Point:
    """The score of one method with so many labels or parameters, in percent, with its standard deviation."""

    panel: str
    """What is on the vertical axis; points of one panel can be compared."""
    method: str
    at: int
    """Number of labelled people, or of trained parameters."""
    mean: float
    sd: float
    has_several_networks: bool


@dataclass(frozen=True)
class Curve:
    """A quantity of one method over its training: at each of `steps` its mean and deviation over seeds."""

    panel: str
    method: str
    steps: tuple[int, ...]
    means: tuple[float, ...]
    sds: tuple[float, ...]
    has_several_networks: bool


Drawn = TypeVar("Drawn", Point, Curve)


def plot(drawn: Sequence[Drawn], path: Path, draw_panel: Callable[[Any, Sequence[Drawn]], None]) -> None:
    """Write the PNG, atomically: a panel with axes of its own for each `panel` of what is drawn."""
    from matplotlib.figure import Figure  # here, as it takes half a second that only a plot needs

    panels = list(dict.fromkeys(each.panel for each in drawn))
    width, height = INCHES
    figure = Figure(figsize=(width, height * len(panels)), layout="constrained")
    for axes, panel in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        draw_panel(axes, [each for each in drawn if each.panel == panel])
        axes.set_ylabel(panel)
        axes.grid(alpha=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    content = BytesIO()
    figure.savefig(content, format="png", dpi=150)
    write_atomic(path, content.getvalue())


def draw_labels(axes: Any, points: Sequence[Point]) -> None:
    """One line per method, dashed where it trains several networks; a little apart, so that bars show."""
    methods = sorted_by_last({point.method for point in points}, points)
    for i, method in enumerate(methods):
        own = sorted((p for p in points if p.method == method), key=lambda p: p.at)
        apart = 1.01 ** (i - (len(methods) - 1) / 2)
        axes.errorbar(
            [p.at * apart for p in own],
            [p.mean for p in own],
            yerr=[p.sd for p in own],
            label=method,
            color=f"C{i % 10}",
            marker=MARKERS[i % len(MARKERS)],
            linestyle="--" if own[0].has_several_networks else "-",
            capsize=3,
        )
    counts = sorted({point.at for point in points})
    axes.set_xscale("log")
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("labelled people")
    axes.set_title(f"{OVER_SEEDS}; dashed: several networks", fontsize="medium")


def draw_parameters(axes: Any, points: Sequence[Point]) -> None:
    """One mark per method, open where it trains several networks, at its trained parameters in millions.

    Methods with as many parameters are a little apart, so that bars show; the legend has the numbers.
    """
    ranked = sorted(points, key=lambda point: -point.mean)
    for i, point in enumerate(ranked):
        as_large = [other for other in ranked if other.at == point.at]
        apart = 1.02 ** (as_large.index(point) - (len(as_large) - 1) / 2)
        axes.errorbar(
            [point.at / 1e6 * apart],
            [point.mean],
            yerr=[point.sd],
            label=f"{point.method} ({point.at / 1e6:.1f} M)",
            color=f"C{i % 10}",
            marker=MARKERS[i % len(MARKERS)],
            markerfacecolor="none" if point.has_several_networks else None,
            linestyle="none",
            capsize=3,
        )
    axes.set_xlabel("trained parameters in millions")
    axes.set_title(f"{OVER_SEEDS}; open: several networks", fontsize="medium")


def draw_curves(axes: Any, curves: Sequence[Curve]) -> None:
    """One line per method over its steps, in a band of one deviation over seeds."""
    for i, curve in enumerate(curves):
        line = {"label": curve.method, "color": f"C{i % 10}"}
        axes.plot(curve.steps, curve.means, linestyle="--" if curve.has_several_networks else "-", **line)
        low, high = ([m + k * sd for m, sd in zip(curve.means, curve.sds, strict=True)] for k in (-1, 1))
        axes.fill_between(curve.steps, low, high, color=line["color"], alpha=0.15, linewidth=0)
    axes.set_xlabel("step")
    axes.set_title(f"{OVER_SEEDS}; dashed: several networks", fontsize="medium")


def sorted_by_last(methods: Iterable[str], points: Sequence[Point]) -> list[str]:
    """Methods from the best to the worst at their largest number, as the legend lists them."""
    last = {point.method: point.mean for point in sorted(points, key=lambda point: point.at)}
    return sorted(methods, key=lambda method: -last[method])

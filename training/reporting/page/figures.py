"""The figures of a page, as SVG that stands in the HTML: text stays text, and nothing is loaded from outside.

The colours are those of Okabe and Ito, which colour-blind readers can tell apart; a line or bar of the
baseline is grey, and dashed or hatched too.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from semipose.training.reporting.page.diagnosis import KINDS_OF_ERROR, Keypoints

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, GREY = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8a8a8a"),
)
SERIES = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY)
ERROR_STYLES = ((BLUE, ""), (SKY, ""), (ORANGE, "//"), (VERMILION, "xx"))
"""Colour and hatching of each of KINDS_OF_ERROR."""
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.titlelocation": "left",
    "axes.titlesize": 11.0,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
}
PX_PER_INCH = 100
"""Of a figure on the page, where it fits."""
BASELINE, MARKERS = "baseline: ", "osD^vP"
Curve = Mapping[int, float]


def svg(name: str, width: float, height: float, rows: int, columns: int, draw: Any, **layout: Any) -> str:
    """A figure of `rows` x `columns` axes, which `draw(axes)` fills; `name` is unique in the page.

    width, height: in inches.
    """
    import matplotlib  # here, as it takes half a second that only a page needs
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.subplots(rows, columns, squeeze=False, **layout))
        content = io.StringIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(content, format="svg", metadata=metadata)
    text = content.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)  # HTML knows these names
    most_wide = f'style="width: {PX_PER_INCH * width:.0f}px" aria-hidden="true"'
    text = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', rf"\1 {most_wide}", text)
    # Ids are counted anew in each figure, and a page holds several.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)


def learning_curves(
    panels: Sequence[tuple[str, str, Sequence[tuple[str, Curve]]]], figure: str = "learning"
) -> str:
    """Panels of curves over the steps, three in a row.

    panels: title, kind of the vertical axis ("log", "share" or ""), and the curves with their names. A curve
    whose name is `baseline: ...` is grey and dashed.
    """
    rows = -(-len(panels) // 3)

    from matplotlib.ticker import LogLocator, NullLocator

    def draw(axes: Any) -> None:
        for panel, (title, kind, curves) in zip(axes.flat, panels, strict=False):
            for i, (label, curve) in enumerate(curves):
                is_baseline = label.startswith(BASELINE)
                style = {"color": GREY, "linestyle": "--"} if is_baseline else {"color": SERIES[i % 6]}
                marker = MARKERS[i % 6] if len(curve) <= 20 else ""
                panel.plot(
                    list(curve), list(curve.values()), label=label, marker=marker, markersize=4, **style
                )
            panel.set_title(title)
            panel.set_xlabel("step")
            if kind == "log" and all(value > 0 for _, curve in curves for value in curve.values()):
                panel.set_yscale("log")
                panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
                panel.yaxis.set_major_formatter("{x:.0e}")
                panel.yaxis.set_minor_locator(NullLocator())
            if kind == "share":
                panel.set_ylim(0, 1.02)
            panel.legend(fontsize=8)
        for panel in axes.flat[len(panels) :]:
            panel.set_axis_off()

    return svg(figure, 11, 2.9 * rows, rows, 3, draw)


def oks_histogram(series: Sequence[tuple[str, np.ndarray]]) -> str:
    """How many people have which OKS, of one or two networks: the last one filled, a baseline as a line."""

    def draw(axes: Any) -> None:
        panel = axes[0, 0]
        edges = np.linspace(0, 1, 21)
        *baseline, (name, values) = series
        panel.hist(values, edges, color=BLUE, label=name, edgecolor="white", linewidth=0.5)
        for other, other_values in baseline:
            panel.hist(other_values, edges, histtype="step", color="black", linestyle="--", label=other)
        panel.set_title("People by OKS")
        panel.set_xlabel("OKS of a person (1: every keypoint in its place)")
        panel.set_ylabel("people")
        panel.legend(fontsize=8, loc="upper left")

    return svg("oks", 5.4, 3.3, 1, 1, draw)


def peak_against_oks(
    peaks: np.ndarray, oks: np.ndarray, tenths: Sequence[tuple[float, float]], name: str
) -> str:
    """How sure the network was of each person, against how right it was; `tenths`: their means by peak."""

    def draw(axes: Any) -> None:
        panel = axes[0, 0]
        panel.scatter(peaks, oks, s=9, color=BLUE, alpha=0.35, linewidths=0, rasterized=len(peaks) > 3000)
        x, y = zip(*tenths, strict=True)
        panel.plot(x, y, color="black", marker="s", markersize=4, label="mean of each tenth of the people")
        panel.set_title("Does the network know when it is wrong?")
        panel.set_xlabel(f"{name} (how sure the network is)")
        panel.set_ylabel("OKS (how right it is)")
        panel.set_ylim(0, 1.03)
        panel.legend(fontsize=8, loc="lower right")

    return svg("peaks", 5.4, 3.3, 1, 1, draw)


def score_by_keypoint(
    title: str, names: Sequence[str], series: Sequence[tuple[str, np.ndarray]], figure: str = "keypoints"
) -> str:
    """A bar for each keypoint and network, in percent; one called `baseline: ...` is grey and hatched."""

    def draw(axes: Any) -> None:
        panel, width = axes[0, 0], 0.84 / len(series)
        for i, (name, values) in enumerate(series):
            places = np.arange(len(names)) - 0.42 + width * (i + 0.5)
            look = {"color": SERIES[(len(series) - 1 - i) % 6]}
            if name.startswith(BASELINE):
                look = {"color": "#cfcfcf", "hatch": "//", "edgecolor": "#777"}
            panel.bar(places, values, width, label=name, **look)
        panel.set_title(title)
        panel.set_xticks(range(len(names)), names, rotation=35, ha="right")
        panel.set_ylim(0, 100)
        panel.set_xlim(-0.6, len(names) - 0.4)
        panel.grid(axis="x", visible=False)
        panel.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0.5, 1.0), ncols=len(series))

    return svg(figure, max(7.0, min(11.0, 2 + 0.55 * len(names))), 3.4, 1, 1, draw)


def errors_by_keypoint(keypoints: Keypoints) -> str:
    """Where each keypoint of the annotated people ended up, in percent: a stacked bar for each."""
    names = keypoints.names

    def draw(axes: Any) -> None:
        panel, left = axes[0, 0], np.zeros(len(names))
        for kind, (colour, hatch) in zip(KINDS_OF_ERROR, ERROR_STYLES, strict=True):
            shares = 100 * keypoints.shares[kind]
            panel.barh(names, shares, left=left, label=kind, color=colour, hatch=hatch, edgecolor="white")
            left += shares
        panel.invert_yaxis()
        panel.set_xlim(0, 100)
        panel.set_title("Where the annotated keypoints were found", pad=24)
        panel.set_xlabel("percent of the annotated keypoints")
        panel.grid(axis="y", visible=False)
        panel.legend(fontsize=8, ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0))

    return svg("errors", 8.5, 1.6 + 0.26 * len(names), 1, 1, draw)
